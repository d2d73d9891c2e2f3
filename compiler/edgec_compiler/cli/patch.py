"""`edgec patch`: applies what `edgec diff` made."""

import argparse

from edgec_bundle.delta import patch_path
from edgec_compiler.cli.command import add_json, describe, print_json


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec patch digits-1.0.0 update.patch -o digits-1.1.0", run)
    parser.add_argument("old", metavar="OLD", help="file or bundle that the patch was made from")
    parser.add_argument("patch", metavar="PATCH")
    parser.add_argument("-o", "--output", required=True, metavar="NEW")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the new file or bundle, whole or not at all."""
    digest = patch_path(arguments.old, arguments.patch, arguments.output)
    if arguments.json:
        print_json({"new": arguments.output, "sha256": digest})
    else:
        print(f"{arguments.output}: sha256 {digest}")
    return 0
