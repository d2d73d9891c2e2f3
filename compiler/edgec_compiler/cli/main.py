"""Parses the command line, runs one command, and turns errors into one line and an exit code.

Only the command that is asked for is imported, and what tells errors apart only after one: so help
and lists come at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from typing import NoReturn

_COMMANDS = {  # each a module beside this one
    "targets": "list the hardware targets",
    "inspect": "show what a model or a bundle holds",
    "check": "show where a target runs each operator of a model",
    "compile": "compile a model for one or several targets",
    "search": "search a recipe's widths and depths for a target",
    "sensitivity": "find the layers that lose most when they are quantised",
    "run": "run a bundle on images or arrays",
    "evaluate": "measure the accuracy of a bundle or a model",
    "bench": "measure load time, latency and memory of a bundle on this machine",
    "compare": "compare a bundle with its model layer by layer",
    "diff": "make a patch from an old file or bundle to a new one",
    "patch": "apply a patch to an old file or bundle",
    "sign": "sign bundles as one release",
    "verify": "check a bundle's files, and with --root its signature",
    "push": "publish bundles to a fleet server",
}
_EXAMPLE = """example, from a trained model to a published release:
  edgec compile model.onnx --target rpi4 --calibration samples.npz --out build
  edgec run build --input photo.jpg
  edgec sign build --key release.pem
  edgec push build --server https://fleet.example --token $EDGEC_TOKEN
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `edgec` with `argv` (default: the process's own) and return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser(words).parse_args(words)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of our output has gone; let the interpreter's own flush find nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:  # a process edge; what is nobody's error is raised again
        from edgec_compiler.cli.failures import exit_code_of

        failed = exit_code_of(error)
        if failed is None:
            raise
        return _fail(str(error), failed)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and how to get help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\nTry `{self.prog} --help`.\n")


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser: all commands, with arguments the one that `words` name."""
    parser = _Parser(
        prog="edgec",
        description="Compile trained models for small devices, try them, sign them, publish them.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgec {metadata.version('edgec')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = next((word for word in words if not word.startswith("-")), None)
    for name, summary in _COMMANDS.items():
        about = f"{summary[0].upper()}{summary[1:]}."
        command = commands.add_parser(name, help=summary, description=about)
        if name == named:
            import_module(f"edgec_compiler.cli.{name}").add(command)
    return parser


def _fail(message: str, code: int) -> int:
    from edgec_compiler.cli.command import visible

    print(f"edgec: {visible(message)}", file=sys.stderr)
    return code
