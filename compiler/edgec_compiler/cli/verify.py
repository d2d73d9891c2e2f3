"""`edgec verify`: whether a bundle is whole, and whether the release keys vouch for it."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from edgec_bundle.archive import Bundle, open_bundle
from edgec_bundle.errors import ArchiveError, MetadataError, TrustError
from edgec_compiler.cli.command import add_json, describe, print_json
from edgec_compiler.errors import NotAchievedError, UsageError

MAX_BYTES = 8 << 20


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec verify build --root root.json", run)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .edgeb file")
    parser.add_argument("--root", metavar="FILE", help="the fleet's root.json")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Say what was found; exit 1 if the bundle is not what it should be."""
    bundle = open_bundle(arguments.bundle)
    try:
        bundle.verify()
    except ArchiveError as error:
        raise NotAchievedError(str(error)) from error
    if arguments.root is not None:
        _check_signature(bundle, Path(arguments.root))
    signed = arguments.root is not None
    manifest = bundle.manifest
    if arguments.json:
        print_json(
            {
                "bundle": arguments.bundle,
                "sha256": bundle.digest,
                "model": manifest.model,
                "version": manifest.version,
                "profile": manifest.profile,
                "intact": True,
                "signed": signed or None,
            }
        )
        return 0
    print(
        f"{manifest.model} {manifest.version} for {manifest.profile}: {len(manifest.files)} files"
    )
    print(f"sha256 {bundle.digest}")
    print("every file is the one that the manifest pins")
    if signed:
        print("the release keys list exactly this manifest")
    else:
        print("who made it was not checked: give --root root.json")
    return 0


def _check_signature(bundle: Bundle, root: Path) -> None:
    from edgec_bundle.trust import open_root, targets_path, verify_release  # slow to import

    targets = targets_path(bundle.path)
    if not targets.is_file():
        raise NotAchievedError(f"{bundle.path}: not signed: there is no {targets.name}")
    try:
        trusted, signed = (file.read_bytes()[: MAX_BYTES + 1] for file in (root, targets))
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}") from error
    try:
        open_root(trusted)
    except MetadataError as error:
        raise UsageError(f"--root {root}: {error}") from error
    try:
        verify_release(bundle.manifest_bytes, trusted, signed, datetime.now(UTC))
    except TrustError as error:
        raise NotAchievedError(f"{bundle.path}: {error}") from error
