"""`edgec bench`: how long a bundle takes on this machine, alone or beside another."""

import argparse
import platform
from pathlib import Path
from typing import Any

from edgec_bundle.archive import is_bundle, open_bundle
from edgec_compiler.cli.command import (
    add_json,
    add_shape,
    describe,
    print_json,
    print_table,
)
from edgec_compiler.cli.opening import stand_in
from edgec_compiler.errors import UsageError
from edgec_compiler.importers.shapes import parse_shapes
from edgec_compiler.sizes import human_bytes
from edgec_compiler.timing.running import Timing, ratio_of, time_in_turns


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec bench build --against model.onnx", run)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder or .edgeb file")
    parser.add_argument(
        "--against",
        metavar="MODEL|BUNDLE",
        help="run in turns with this one; a bare model is compared without pre- and postprocessing",
    )
    add_shape(parser, "for a model of --against with free axes: fix an input's shape")
    parser.add_argument("--runs", type=int, default=200, metavar="N", help="inferences (200)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of an inference (1)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print what was measured, and with --against the ratio and how far to trust it."""
    for name in ("runs", "threads"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name}: expected 1 or more, got {getattr(arguments, name)}")
    if not is_bundle(Path(arguments.bundle)):
        raise UsageError(f"{arguments.bundle}: expected a bundle; a model goes to --against")
    against = arguments.against
    whole = against is None or is_bundle(Path(against))
    paths = [arguments.bundle] if against is None else [arguments.bundle, against]
    if arguments.shape and whole:
        raise UsageError("--shape belongs to --against MODEL: a bundle's shapes are fixed")
    parse_shapes(arguments.shape)
    notes = [note for path in paths if (note := _stands_in(path)) is not None]
    timings = time_in_turns(
        *(paths, arguments.shape),
        runs=arguments.runs,
        threads=arguments.threads,
        whole=whole,
    )
    facts: dict[str, Any] = {
        "bundle": arguments.bundle,
        "measures": "raw input to final output" if whole else "the model file alone, on noise",
        "threads": arguments.threads,
        "host": f"{platform.machine()}, {platform.system()}",
        **timings[0].to_json(),
        "notes": notes,
    }
    if against is not None:
        ratio = ratio_of(timings[0].rounds_ms, timings[1].rounds_ms)
        facts["against"] = {"path": against, **timings[1].to_json()}
        facts["ratio"] = {
            "median": round(ratio.median, 4),
            "low": round(ratio.low, 4),
            "high": round(ratio.high, 4),
            "words": ratio.words(),
        }
    if arguments.json:
        print_json(facts)
    else:
        _print(facts, paths, timings)
    return 0


def _stands_in(path: str) -> str | None:
    """Return what is run in place of what the target runs, if it is."""
    if not is_bundle(Path(path)):
        return None
    said = stand_in(open_bundle(path).manifest)
    if said is None:
        return None
    return f"{path}: {said}. What is measured on this machine says nothing about the target's"


def _print(facts: dict[str, Any], paths: list[str], timings: tuple[Timing, ...]) -> None:
    print(f"{facts['measures']}, {facts['threads']} thread(s), {facts['host']}")
    rows: list[tuple[str, ...]] = [("", *paths)]
    values: list[tuple[str, list[str]]] = [
        ("cold load", [f"{t.cold_ms:.1f} ms" for t in timings]),
        ("warm load", [f"{t.warm_ms:.1f} ms" for t in timings]),
        ("first inference", [f"{t.first_ms:.3f} ms" for t in timings]),
        ("p50", [f"{t.latency.p50:.3f} ms" for t in timings]),
        ("p95", [f"{t.latency.p95:.3f} ms" for t in timings]),
        ("p99", [f"{t.latency.p99:.3f} ms" for t in timings]),
        ("throughput", [f"{t.per_second:.1f} /s" for t in timings]),
        ("memory of runtime and model", [human_bytes(t.memory_bytes) for t in timings]),
        ("memory of the process", [human_bytes(t.process_bytes) for t in timings]),
        ("runs on", [f"{t.runtime} ({', '.join(t.delegates)})" for t in timings]),
    ]
    rows += [(name, *cells) for name, cells in values]
    print_table(rows)
    if "ratio" in facts:
        print(facts["ratio"]["words"])
    for note in facts["notes"]:
        print(f"note: {note}")
