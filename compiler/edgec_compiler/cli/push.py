"""`edgec push`: publish the variants of a release to a fleet server."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from edgec_bundle.archive import Bundle, open_bundle, pack_bundle
from edgec_compiler.cli.command import add_json, describe, print_json
from edgec_compiler.cli.release import release_of
from edgec_compiler.errors import UsageError
from edgec_compiler.server import FleetServer, Upload, token_from


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(
        parser,
        "edgec push build/rpi4 build/jetson-orin-nano --server https://fleet.example --token T",
        run,
    )
    parser.add_argument("bundle", nargs="+", metavar="BUNDLE", help="all variants of the release")
    parser.add_argument("--server", required=True, metavar="URL")
    parser.add_argument("--token", metavar="T", help="API token ($EDGEC_TOKEN)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Send all bundles in one request, with their signed list if there is one."""
    server = FleetServer(arguments.server, token_from(arguments.token))
    bundles = [open_bundle(path) for path in arguments.bundle]
    release = release_of(bundles, "push")
    with TemporaryDirectory() as folder:
        files = [
            Upload("bundle", _packed(bundle, Path(folder)), f"{bundle.manifest.profile}.edgeb")
            for bundle in bundles
        ]
        signed = _signed_list(bundles)
        if signed is not None:
            files.append(Upload("targets", signed, "targets.json"))
        answer = server.upload("/v1/releases", files)
    if arguments.json:
        print_json(answer)
        return 0
    variants = "1 variant" if len(bundles) == 1 else f"{len(bundles)} variants"
    print(f"{release}: published {variants} to {arguments.server}")
    waits = answer.get("sign_with") if isinstance(answer, dict) else None
    if waits:
        print(f"it waits for its signature by {waits}: edgec sign, then push again")
    return 0


def _packed(bundle: Bundle, folder: Path) -> Path:
    if bundle.path.is_file():
        return bundle.path
    out = folder / f"{bundle.manifest.profile}.edgeb"
    pack_bundle(bundle, out)
    return out


def _signed_list(bundles: list[Bundle]) -> Path | None:
    """Return the finished targets.json beside the bundles, if they were signed."""
    from edgec_bundle.trust import targets_path  # slow to import

    found = [targets_path(bundle.path) for bundle in bundles]
    there = [path for path in found if path.is_file()]
    if not there:
        return None
    if len(there) != len(found) or len({path.read_bytes() for path in there}) != 1:
        raise UsageError("the bundles were not signed together: give all of them to one edgec sign")
    return there[0]
