"""The options --cache and --no-cache."""

import argparse

from edgec_compiler.cache import default_folder


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add --cache and --no-cache."""
    cache = parser.add_mutually_exclusive_group()
    cache.add_argument(
        "--cache",
        metavar="DIR",
        help="what earlier runs found (default: $XDG_CACHE_HOME/edgec or ~/.cache/edgec)",
    )
    cache.add_argument("--no-cache", action="store_true", help="neither read nor write a cache")


def cache_of(arguments: argparse.Namespace) -> str | None:
    """Return the folder of the cache, None with --no-cache."""
    return None if arguments.no_cache else arguments.cache or str(default_folder())
