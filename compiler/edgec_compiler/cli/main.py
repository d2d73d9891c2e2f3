"""Parses the command line, runs one command, and turns errors into one line and an exit code.

Exit codes: 0 done, 1 not achievable, 2 wrong usage or unreadable input, 3 a missing extra or tool,
4 server or network.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from edgec_bundle.errors import (
    ArchiveError,
    BundleError,
    ManifestError,
    PatchFormatError,
    PatchPathError,
)
from edgec_compiler.cli import (
    check,
    compile,
    diff,
    evaluate,
    inspect,
    patch,
    push,
    run,
    sign,
    targets,
    verify,
)
from edgec_compiler.errors import CompilerError
from edgec_hardware_profiles import ProfileError
from edgec_runtime.errors import (
    DataError,
    InputError,
    ModelError,
    RunError,
    RuntimeMissingError,
    SpecError,
)

_COMMANDS = (targets, inspect, check, compile, run, evaluate, diff, patch, sign, verify, push)
_UNREADABLE = (
    ArchiveError,
    DataError,
    InputError,
    ManifestError,
    ModelError,
    PatchFormatError,
    PatchPathError,
    ProfileError,
    SpecError,
)
_EXAMPLE = """example, from a trained model to a published release:
  edgec compile model.onnx --target rpi4 --calibration samples.npz --out build
  edgec run build --input photo.jpg
  edgec sign build --key release.pem
  edgec push build --server https://fleet.example --token $EDGEC_TOKEN
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `edgec` with `argv` (default: the process's own) and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except CompilerError as error:
        return _fail(str(error), error.exit_code)
    except (BundleError, RunError, ProfileError) as error:
        return _fail(str(error), _exit_code(error))
    except BrokenPipeError:
        # The reader of our output has gone; let the interpreter's own flush find nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgec",
        description="Compile trained models for small devices, try them, sign them, publish them.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgec {metadata.version('edgec')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add(commands)
    return parser


def _exit_code(error: Exception) -> int:
    if isinstance(error, RuntimeMissingError):
        return 3
    return 2 if isinstance(error, _UNREADABLE) else 1


def _fail(message: str, code: int) -> int:
    print(f"edgec: {message}", file=sys.stderr)
    return code
