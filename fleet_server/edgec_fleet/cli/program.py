"""Puts the commands together, runs one, and turns every failure into a sentence and a code."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from edgec_bundle.errors import BundleError
from edgec_fleet import __version__
from edgec_fleet.cli import fleet, people, registry, setup
from edgec_fleet.errors import ConflictError, FleetError, MissingKeyError

_NOT_ACHIEVED = (ConflictError, MissingKeyError)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code; never a traceback for a user's mistake."""
    given = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        output = given.run(given)
        text = output.text(as_json=given.json)
        if text:
            print(text, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (the reader is gone; exit quietly)
        return 0
    except FleetError as error:
        return _fail(str(error), 1 if isinstance(error, _NOT_ACHIEVED) else 2)
    except BundleError as error:
        return _fail(str(error), 2)
    except ArgumentError as error:
        return _fail(f"expected a database URL: {error}", 2)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        return _fail(f"the database cannot be used: {reason}", 4)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    return int(output.code)


def _fail(sentence: str, code: int) -> int:
    print(f"edgec-fleet: {sentence}", file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="edgec-fleet",
        description="The fleet server: who gets which model release, when.",
        epilog="example:\n  edgec-fleet init --dir fleet && edgec-fleet serve --dir fleet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgec-fleet {__version__}")
    commands = Commands(parser.add_subparsers(title="commands", metavar="COMMAND", required=True))
    for module in (setup, people, registry, fleet):
        module.add_commands(commands)
    return parser


class Commands:
    """Adds commands that share --dir, --tenant, --json and an example in their help."""

    def __init__(self, subparsers: Any, prefix: str = "edgec-fleet") -> None:
        self._subparsers = subparsers
        self._prefix = prefix

    def add(
        self, name: str, run: Any, text: str, example: str, *, plain: bool = False
    ) -> argparse.ArgumentParser:
        """Add a command; `plain` leaves --dir and --tenant to the caller."""
        parser: argparse.ArgumentParser = self._subparsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {self._prefix} {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run)
        parser.add_argument("--json", action="store_true", help="print JSON")
        if not plain:
            add_dir(parser)
            parser.add_argument("--tenant", help="act in this tenant, not the server's own")
        return parser

    def group(self, name: str, text: str, example: str) -> "Commands":
        """Add a command that has commands of its own."""
        parser = self._subparsers.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  {self._prefix} {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        inner = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
        return Commands(inner, f"{self._prefix} {name}")


def add_dir(parser: argparse.ArgumentParser) -> None:
    """Give `parser` --dir, which the environment variable EDGEC_FLEET_DIR can replace."""
    default = os.environ.get("EDGEC_FLEET_DIR")
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path(default) if default else None,
        required=default is None,
        help="the server's folder (or set EDGEC_FLEET_DIR)",
    )
