"""`edgec compare`: which layers of a compiled model lose accuracy, and what keeps them."""

import argparse
import sys
from pathlib import Path
from typing import Any

from edgec_bundle.archive import is_bundle
from edgec_compiler.cli.command import add_json, describe, print_json, print_table
from edgec_compiler.comparing.options import CompareOptions
from edgec_compiler.errors import UsageError
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.isolated import run_isolated

_SHOWN = 20
_EXAMPLE = """edgec compare digits.onnx build --data test.npz --preprocessing steps.toml"""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, _EXAMPLE, run)
    parser.add_argument("model", metavar="MODEL", help="the float model that it was made from")
    parser.add_argument("bundle", metavar="BUNDLE", help="one target's bundle")
    parser.add_argument(
        "--data", required=True, metavar="DATA", help=".npz or folder of raw inputs, no labels"
    )
    parser.add_argument(
        "--preprocessing", metavar="STEPS.toml", help="the steps that the bundle was made with"
    )
    parser.add_argument("--all", action="store_true", help=f"all layers, not the {_SHOWN} worst")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Compare in a child process and print every layer's error, the worst first."""
    kind_of(arguments.model)
    if not is_bundle(Path(arguments.bundle)):
        raise UsageError(
            f"{arguments.bundle}: not a bundle (of a compile for several targets, name one of its "
            "folders)"
        )
    for flag in ("data", "preprocessing"):
        given = getattr(arguments, flag)
        if given is not None and not Path(given).exists():
            raise UsageError(f"--{flag} {given}: no such file")
    options = CompareOptions(
        arguments.model, arguments.bundle, arguments.data, arguments.preprocessing
    )
    for event in run_isolated("compare", options.model, options.to_dict()):
        if event["event"] == "step":
            if not arguments.json:
                print(f"  {event['step']}", file=sys.stderr, flush=True)
        elif arguments.json:
            print_json(event["facts"])
        else:
            _print(event["facts"], whole=arguments.all)
    return 0


def _print(facts: dict[str, Any], *, whole: bool) -> None:
    layers = facts["layers"]
    print(
        f"{facts['bundle']}: {facts['target']}, {facts['format']} at {facts['precision']}, "
        f"{len(layers)} layers on {facts['samples']} samples, the worst first"
    )
    shown = layers if whole else layers[:_SHOWN]
    rows = [("LAYER", "ERROR", "SQNR", "COSINE", "MAX ERROR", "OPERATOR")]
    rows += [
        (
            one["layer"],
            "-" if one["error"] is None else f"{one['error']:.4f}",
            "-" if one["sqnr_db"] is None else f"{one['sqnr_db']:.1f} dB",
            "-" if one["cosine"] is None else f"{one['cosine']:.6f}",
            f"{one['max_error']:.4g}",
            one["op"] + (" (float)" if one["float"] else ""),
        )
        for one in shown
    ]
    print_table(rows)
    if len(shown) < len(layers):
        print(f"and {len(layers) - len(shown)} more; --all shows them")
    print("ERROR is the root mean square error as a share of the layer's standard deviation.")
    for note in facts["notes"]:
        print(f"note: {note}")
    _print_advice(facts)


def _print_advice(facts: dict[str, Any]) -> None:
    if not facts["blamed"]:
        print("no layer stands out")
    elif facts["options"]:
        print("most is lost here; if answers suffer, keep it in float: add to `edgec compile`:")
        print(f"  {facts['options']}")
    else:
        print(f"most is lost in {', '.join(facts['blamed'])}; the target executes integers only:")
        print("  try --equalize, --bias-correction, --calibration-method mse or another precision")
