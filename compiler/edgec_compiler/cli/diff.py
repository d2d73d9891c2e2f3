"""`edgec diff`: what turns one file or bundle into another."""

import argparse

from edgec_bundle.delta import FORMATS, diff_paths
from edgec_compiler.cli.command import (
    add_json,
    describe,
    print_json,
    refuse_overwriting,
)
from edgec_compiler.sizes import human_bytes


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec diff digits-1.0.0 digits-1.1.0 -o update.patch", run)
    parser.add_argument("old", metavar="OLD", help="file or bundle")
    parser.add_argument("new", metavar="NEW", help="file or bundle")
    parser.add_argument("-o", "--output", required=True, metavar="PATCH")
    parser.add_argument(
        "--format", choices=("auto", *FORMATS), default="auto", help="auto: the smallest"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the patch and say how large it is."""
    refuse_overwriting(arguments.output, arguments.old, arguments.new)
    made = diff_paths(arguments.old, arguments.new, arguments.output, arguments.format)
    if arguments.json:
        print_json(
            {
                "patch": arguments.output,
                "format": made.format,
                "bytes": {"old": made.old_bytes, "new": made.new_bytes, "patch": made.patch_bytes},
            }
        )
        return 0
    share = made.patch_bytes / made.new_bytes if made.new_bytes else 1.0
    print(
        f"{arguments.output}: {human_bytes(made.patch_bytes)} ({made.format}), "
        f"{share:.0%} of the new {human_bytes(made.new_bytes)}"
    )
    return 0
