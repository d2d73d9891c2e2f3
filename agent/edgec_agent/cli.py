"""The command `edgec-agent`: reads what a person typed, and says what came of it.

Exit codes: 0 done, 1 what was asked for could not be achieved, 2 wrong usage or unreadable input,
3 a missing runtime, 4 server or network.
"""

import argparse
import json
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgec_agent import actions
from edgec_agent.config import default_folder
from edgec_agent.errors import (
    AddressError,
    AgentError,
    ConfigError,
    FetchError,
    NetworkError,
    UnavailableError,
)
from edgec_agent.metrics import agent_version
from edgec_bundle.errors import BundleError
from edgec_hardware_profiles import ProfileError
from edgec_runtime.errors import DataError, InputError, RunError, RuntimeMissingError

DONE, NOT_ACHIEVED, USAGE, MISSING, NETWORK = range(5)

_USAGE_ERRORS = (ConfigError, AddressError, DataError, InputError, ProfileError)
_NETWORK_ERRORS = (NetworkError, FetchError, UnavailableError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        stream=sys.stderr,
        level=(logging.WARNING, logging.INFO, logging.DEBUG)[min(options.verbose, 2)],
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    )
    try:
        code: int = options.act(options)
        return code
    except _USAGE_ERRORS as error:
        return _fail(error, USAGE)
    except RuntimeMissingError as error:
        return _fail(error, MISSING)
    except _NETWORK_ERRORS as error:
        return _fail(error, NETWORK)
    except (AgentError, BundleError, RunError, sqlite3.Error) as error:
        return _fail(error, NOT_ACHIEVED)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_ACHIEVED


def _fail(error: Exception, code: int) -> int:
    print(f"edgec-agent: {error}", file=sys.stderr)
    return code


# -- commands --------------------------------------------------------------------------------


def _enroll(options: argparse.Namespace) -> int:
    token = sys.stdin.readline() if options.token == "-" else options.token  # noqa: S105
    identity = actions.enroll(
        options.dir, options.server, token, options.device, options.profile, options.tag
    )
    said = {"device": identity.device, "tenant": identity.tenant, "dir": str(options.dir)}
    _say(options, said, f"Enrolled as {identity.tenant}/{identity.device} in {options.dir}.")
    return DONE


def _run(options: argparse.Namespace) -> int:
    overrides = actions.overrides_of(options.set)
    if options.probation_samples is not None:
        overrides["probation.samples"] = options.probation_samples
    if options.probation_seconds is not None:
        overrides["probation.seconds"] = options.probation_seconds
    if options.profile:
        overrides["profiles"] = tuple(options.profile)
    wake, signalled = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(signalled, b"!") and None)
    with actions.running(options.dir, overrides, options.http) as address:
        _say(options, {"ready": True, "address": address}, f"edgec-agent ready on {address}")
        os.read(wake, 1)
    return DONE


def _status(options: argparse.Namespace) -> int:
    found = actions.status(options.dir)
    _say(options, found, "\n".join(actions.status_lines(found)))
    return DONE


def _doctor(options: argparse.Namespace) -> int:
    healthy = True
    for finding in actions.doctor(options.dir):
        healthy &= finding.level != "failure"
        shown = {"check": finding.check, "level": finding.level, "text": finding.text}
        _say(options, shown, f"{finding.level:8} {finding.check}: {finding.text}")
    return DONE if healthy else NOT_ACHIEVED


def _install(options: argparse.Namespace) -> int:
    found = actions.install(options.dir, options.pack, options.timeout)
    phases = ", ".join(f"{model}: {phase}" for model, phase in found["models"].items())
    _say(options, found, f"Assignment {found['assignment']} taken in ({phases or 'no models'}).")
    refused = {"rejected", "failed", "rolled_back"} & set(found["models"].values())
    return NOT_ACHIEVED if refused else DONE


def _infer(options: argparse.Namespace) -> int:
    for found in actions.infer(options.dir, options.model, options.input):
        score = "" if found["score"] is None else f" {found['score']:.4f}"
        text = found["outputs"] if found["label"] is None else f"{found['label']}{score}"
        _say(options, found, f"{found['input']}: {text} ({found['elapsed_ms']:.2f} ms)")
    return DONE


def _rollback(options: argparse.Namespace) -> int:
    found = actions.rollback(options.dir, options.model, options.timeout)
    _say(options, found, f"{found['model']} runs version {found['version']} again.")
    return DONE


def _reset(options: argparse.Namespace) -> int:
    if options.all:
        if not options.yes:
            raise ConfigError("reset --all removes every model and the identity: add --yes")
        actions.reset_all(options.dir)
        _say(options, {"reset": "all"}, f"{options.dir} is as before enrolment.")
        return DONE
    found = actions.forget(options.dir, options.model, options.timeout)
    _say(options, found, f"What was refused or failed of {found['model']} is tried again.")
    return DONE


def _say(options: argparse.Namespace, found: Mapping[str, Any], text: str) -> None:
    print(json.dumps(found, sort_keys=True) if options.json else text, flush=True)


# -- what may be typed -----------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, and how to get help."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message}\nTry `{self.prog} --help`.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="edgec-agent",
        description="Serves models on this device, and keeps them what the fleet server says.",
        epilog="example: edgec-agent run --dir /var/lib/edgec --http 127.0.0.1:9000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgec-agent {agent_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_enroll, _add_run, _add_status, _add_doctor):
        add(commands)
    for add in (_add_install, _add_infer, _add_rollback, _add_reset):
        add(commands)
    return parser


def _command(
    commands: Any,
    name: str,
    act: Callable[[argparse.Namespace], int],
    text: str,
    example: str,
    *,
    verbose: int = 0,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example: edgec-agent {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=default_folder(),
        metavar="DIR",
        help="the agent's folder (default: %(default)s, or what EDGEC_DIR says)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")
    parser.add_argument(
        "-v", "--verbose", action="count", default=verbose, help="say more (twice: everything)"
    )
    parser.set_defaults(act=act)
    return parser


def _add_enroll(commands: Any) -> None:
    parser = _command(
        commands,
        "enroll",
        _enroll,
        "join a fleet with a one-time token",
        "enroll --server https://fleet.example --token edgec1.eyJ... --dir /var/lib/edgec",
    )
    parser.add_argument("--server", required=True, metavar="URL", help="the fleet server's address")
    parser.add_argument("--token", required=True, help="the enrolment token; - reads it from stdin")
    parser.add_argument(
        "--device", metavar="ID", help="the wanted id (default: the server chooses)"
    )
    parser.add_argument(
        "--profile", action="append", default=[], help="a hardware profile to accept; repeatable"
    )
    parser.add_argument(
        "--tag", action="append", default=[], metavar="NAME=VALUE", help="a tag; repeatable"
    )


def _add_run(commands: Any) -> None:
    parser = _command(
        commands,
        "run",
        _run,
        "serve this device's models, and keep them up to date",
        "run --dir /var/lib/edgec --http 127.0.0.1:9000",
        verbose=1,
    )
    parser.add_argument(
        "--http",
        default="127.0.0.1:9000",
        metavar="ADDRESS",
        help="where the local API listens: HOST:PORT or unix:PATH (default: %(default)s)",
    )
    parser.add_argument(
        "--profile", action="append", default=[], help="a hardware profile to accept; repeatable"
    )
    parser.add_argument(
        "--probation-samples", type=int, metavar="N", help="compared rows until the verdict"
    )
    parser.add_argument(
        "--probation-seconds", type=float, metavar="S", help="the longest time until the verdict"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="put a value over agent.toml, as in retry.base_s=1; repeatable",
    )


def _add_status(commands: Any) -> None:
    _command(commands, "status", _status, "show what this device runs", "status --json")


def _add_doctor(commands: Any) -> None:
    _command(commands, "doctor", _doctor, "look for what could go wrong here", "doctor")


def _add_install(commands: Any) -> None:
    parser = _command(
        commands,
        "install",
        _install,
        "take models from an offline pack, with the same checks as online",
        "install /media/usb/pack.zip",
    )
    parser.add_argument("pack", type=Path, metavar="PACK", help="a pack file or folder")
    _add_timeout(parser, 600.0)


def _add_infer(commands: Any) -> None:
    parser = _command(
        commands,
        "infer",
        _infer,
        "try the active model on files",
        "infer --model digits --input samples.npz",
    )
    parser.add_argument("--model", metavar="NAME", help="which model (default: the only one)")
    parser.add_argument(
        "--input", type=Path, nargs="+", required=True, metavar="FILE", help="images, or .npz"
    )


def _add_rollback(commands: Any) -> None:
    parser = _command(
        commands,
        "rollback",
        _rollback,
        "serve the previous version of a model again",
        "rollback --model digits",
    )
    parser.add_argument("--model", required=True, metavar="NAME")
    _add_timeout(parser, 60.0)


def _add_reset(commands: Any) -> None:
    parser = _command(
        commands,
        "reset",
        _reset,
        "forget what was refused of a model, or everything",
        "reset --model digits",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="NAME", help="try again what was refused or failed")
    what.add_argument("--all", action="store_true", help="remove identity, models and state")
    parser.add_argument("--yes", action="store_true", help="really, with --all")
    _add_timeout(parser, 60.0)


def _add_timeout(parser: argparse.ArgumentParser, default_s: float) -> None:
    parser.add_argument(
        "--timeout",
        type=float,
        default=default_s,
        metavar="S",
        help="how long to wait for a running agent's answer (default: %(default)g s)",
    )


if __name__ == "__main__":
    sys.exit(main())
