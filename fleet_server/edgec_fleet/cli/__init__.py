"""The command `edgec-fleet`; exit codes: 0 done, 1 not achieved, 2 usage, 3 extra, 4 network."""

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `edgec-fleet` and return its exit code."""
    try:
        from edgec_fleet.cli import program
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0].startswith("edgec"):
            raise
        print(
            f"edgec-fleet: the module {error.name} is missing; the fleet server needs the extra "
            "edgec[fleet]: pip install 'edgec[fleet]'",
            file=sys.stderr,
        )
        return 3
    return program.run(sys.argv[1:] if arguments is None else arguments)
