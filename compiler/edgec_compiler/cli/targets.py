"""`edgec targets`: the hardware targets."""

import argparse

from edgec_compiler.cli.command import add_json, describe, print_json, print_table
from edgec_hardware_profiles import Profile, load, names


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec targets --json", run)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print every built-in target."""
    profiles = [load(name) for name in names()]
    if arguments.json:
        print_json([_facts(profile) for profile in profiles])
        return 0
    rows = [("TARGET", "FORMATS", "PRECISIONS", "WHAT IT IS")]
    for profile in profiles:
        precisions = ",".join(profile.precisions)
        rows.append((profile.name, ",".join(profile.formats), precisions, profile.title))
    print_table(rows)
    return 0


def _facts(profile: Profile) -> dict[str, object]:
    return {
        "name": profile.name,
        "title": profile.title,
        "arch": profile.arch,
        "runtime": profile.runtime.name,
        "format": profile.format,
        "formats": list(profile.formats),
        "precisions": list(profile.precisions),
        "default_precision": profile.default_precision,
        "accelerator": profile.accelerator,
        "memory_bytes": profile.memory_bytes,
        "full_integer": profile.full_integer,
    }
