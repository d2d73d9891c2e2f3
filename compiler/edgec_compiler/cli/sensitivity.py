"""`edgec sensitivity`: what each layer has to do with the loss of a precision."""

import argparse
from collections.abc import Mapping
from contextlib import closing
from typing import Any

from edgec_compiler.cli.asked import name_of, options_of
from edgec_compiler.cli.caching import add_cache
from edgec_compiler.cli.command import add_json, add_shape, describe, print_json, print_table
from edgec_compiler.cli.progress import progress_for
from edgec_compiler.errors import UsageError
from edgec_compiler.isolated import run_isolated
from edgec_compiler.options import DEFAULT_MAX_DROP, CompileOptions
from edgec_compiler.planning import plan
from edgec_compiler.recipe import METHODS

_EXAMPLE = """edgec sensitivity digits.onnx --target rpi4 --calibration calibration.npz \\
      --evaluation test.npz --preprocessing steps.toml --labels labels.txt"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, _EXAMPLE, run)
    parser.add_argument("model", metavar="MODEL", help="as for `edgec compile`")
    parser.add_argument("--target", required=True, metavar="T", help="as for `edgec compile`")
    parser.add_argument("--format", choices=("onnx", "tflite"), help="default: the target's own")
    add_shape(parser, "as for `edgec compile`")
    parser.add_argument("--calibration", required=True, metavar="DATA")
    parser.add_argument(
        "--evaluation",
        metavar="DATA",
        help="with labels, accuracy is measured; else agreement with the source model",
    )
    parser.add_argument("--preprocessing", metavar="STEPS.toml")
    parser.add_argument("--labels", metavar="FILE")
    parser.add_argument(
        "--precision",
        choices=("auto", "int8", "int16x8", "int4"),
        default="auto",
        help="the target's integer precision unless given",
    )
    parser.add_argument("--calibration-method", choices=METHODS, default="minmax")
    parser.add_argument(
        "--max-accuracy-drop",
        type=float,
        metavar="FRACTION",
        help=f"that the options to paste shall keep ({DEFAULT_MAX_DROP:g})",
    )
    parser.add_argument(
        "--max-layers",
        type=int,
        default=32,
        metavar="N",
        help="layers to measure, the most suspected ones (32)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="after which no further layer is begun; the next run goes on from there",
    )
    add_cache(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Sweep in a child process and print what comes of it."""
    options = _options(arguments)
    names = [one.profile.name for one in plan(options)]
    progress = progress_for(names, quiet=arguments.json)
    with (
        closing(run_isolated("sensitivity", options.model, options.to_dict())) as events,
        closing(progress),
    ):
        for event in events:
            if event["event"] == "step":
                progress.step(event["target"], event["step"])
                continue
            progress.end(names[0], "done")
            with progress.aside():
                if arguments.json:
                    print_json(event["facts"])
                else:
                    _print(event["facts"])
    return 0


def _options(arguments: argparse.Namespace) -> CompileOptions:
    if arguments.max_layers < 1:
        raise UsageError(f"--max-layers: expected 1 or more, got {arguments.max_layers}")
    if arguments.budget is not None and not arguments.budget > 0:
        raise UsageError(f"--budget: expected seconds, got {arguments.budget:g}")
    return options_of(
        arguments,
        targets=(arguments.target,),
        out="",
        name=name_of(arguments),
        search_budget=arguments.budget,
        max_layers=arguments.max_layers,
    )


def _print(facts: Mapping[str, Any]) -> None:
    what = facts["judged_by"]
    source = facts["source_accuracy"]
    before = "" if source is None else f", {source:.4f} in float"
    print(
        f"{facts['target']}: {facts['precision']} of all layers: {what} "
        f"{facts['all'][what]:.4f}{before} ({facts['samples']} samples, {facts['data']} data)"
    )
    rows = [row for row in facts["layers"] if row["sqnr_db"] is not None or row["on"] is not None]
    title = ("  LAYER", "SQNR dB", f"{what.upper()} ON", "DROP ON", "DROP OFF", "MACS")
    print_table([title, *(_row(row, what) for row in rows)])
    left = len(facts["layers"]) - len(rows)
    if left:
        print(f"  {left} more layers: without effect, or not measured (--max-layers, --budget)")
    print("  on: only this layer is quantised; off: all but this layer are")
    found = facts["suggestion"]
    if found is None:
        print("no choice of layers keeps the budget: see --max-accuracy-drop")
    elif not found["float_layers"]:
        print(f"the budget of {facts['max_accuracy_drop']:g} is kept with all layers quantised")
    else:
        print(f"to paste ({what} {found[what]:.4f}): {found['options']}")


def _row(row: Mapping[str, Any], what: str) -> tuple[str, ...]:
    def figure(which: str, key: str) -> str:
        return "" if row[which] is None else f"{row[which][key]:.4f}"

    sqnr = "exact" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
    return (
        f"  {row['layer']}",
        sqnr,
        figure("on", what),
        figure("on", "drop"),
        figure("off", "drop"),
        str(row["macs"]),
    )
