"""`edgec sign`: put bundles on the list of genuine releases, with the release key."""

import argparse
import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edgec_bundle.archive import Bundle, open_bundle
from edgec_bundle.errors import MetadataError, TrustError
from edgec_compiler.cli.command import add_json, describe, print_json
from edgec_compiler.cli.release import release_of
from edgec_compiler.errors import UsageError
from edgec_compiler.server import FleetServer, token_from

MAX_BYTES = 8 << 20
_VALID_DAYS = 365


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "edgec sign build/rpi4 build/jetson-orin-nano --key release.pem --targets targets.json",
        run,
    )
    parser.add_argument("bundle", nargs="+", metavar="BUNDLE", help="all variants of the release")
    parser.add_argument(
        "--key", required=True, metavar="URI", help="file, or file2:, hsm:, awskms: ... URI"
    )
    current = parser.add_mutually_exclusive_group()
    current.add_argument("--server", metavar="URL", help="take the current list from there")
    current.add_argument("--targets", metavar="FILE", help="the current list, targets.json")
    parser.add_argument("--token", metavar="T", help="API token for --server ($EDGEC_TOKEN)")
    parser.add_argument("--root", metavar="FILE", help="check the current list against root.json")
    parser.add_argument(
        "--days", type=int, default=_VALID_DAYS, help=f"how long it is valid ({_VALID_DAYS})"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write targets.json beside every bundle."""
    if not 1 <= arguments.days <= 3650:
        raise UsageError(f"--days: expected 1..3650, got {arguments.days}")
    bundles = [open_bundle(path) for path in arguments.bundle]
    release_of(bundles, "sign")
    for bundle in bundles:
        bundle.verify()
    root = _read("--root", arguments.root) if arguments.root else None
    current = _current(arguments)
    from edgec_bundle.trust import load_signer, open_root, sign_release  # slow to import

    with _named(f"--root {arguments.root}"):
        if root is not None:
            open_root(root)
    try:
        signer = load_signer(arguments.key, secrets=lambda name: getpass.getpass(f"{name}: "))
    except TrustError as error:
        raise UsageError(f"--key: {error}") from error
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(days=arguments.days)
    manifests = [bundle.manifest_bytes for bundle in bundles]
    with _named(f"--targets {arguments.targets}" if arguments.targets else arguments.server or ""):
        document = sign_release(manifests, current, signer, expires=expires, root=root)
    written = [_write(bundle, document) for bundle in bundles]
    if arguments.json:
        print_json({"targets": [str(path) for path in written], "expires": expires.isoformat()})
    else:
        for bundle, path in zip(bundles, written, strict=True):
            m = bundle.manifest
            print(f"{m.model} {m.version} for {m.profile}: {path}")
    return 0


def _current(arguments: argparse.Namespace) -> bytes | None:
    if arguments.targets:
        return _read("--targets", arguments.targets)
    if arguments.server:
        server = FleetServer(arguments.server, token_from(arguments.token))
        return server.get("/v1/trust/targets.json")
    return None


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Say in which file or on which server the metadata lies that is wrong."""
    try:
        yield
    except MetadataError as error:
        raise MetadataError(f"{place}: {error}" if place else str(error)) from error


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            payload = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{option} {path}: {error.strerror}") from error
    if len(payload) > MAX_BYTES:
        raise UsageError(f"{option} {path}: more than {MAX_BYTES} bytes")
    return payload


def _write(bundle: Bundle, document: bytes) -> Path:
    from edgec_bundle.trust import targets_path

    path = targets_path(bundle.path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(document)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    return path
