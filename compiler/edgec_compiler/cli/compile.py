"""`edgec compile`: a trained model in, one bundle per target out."""

import argparse
import sys
from typing import Any

from edgec_compiler.cli.command import Subparsers, add_json, command, human_bytes, print_json
from edgec_compiler.errors import UsageError
from edgec_compiler.importers.shapes import parse_shapes
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.isolated import compile_isolated
from edgec_compiler.naming import model_name
from edgec_compiler.options import DEFAULT_MAX_DROP, CompileOptions
from edgec_compiler.planning import Plan, plan
from edgec_compiler.precisions import PRECISIONS

_EXAMPLE = """edgec compile digits.onnx --target rpi4 --target generic-x86_64 --name digits \\
      --version 1.0.0 --calibration calibration.npz --evaluation test.npz \\
      --preprocessing steps.toml --labels labels.txt --out build"""


def add(commands: Subparsers) -> None:
    """Add the command."""
    parser = command(
        commands, "compile", "compile a model for one or several targets", _EXAMPLE, run
    )
    _add_what(parser)
    _add_data(parser)
    _add_how(parser)
    add_json(parser)


def _add_what(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="ONNX, .pt2, .keras, .h5, SavedModel, .tflite, or FILE.py:factory for a torch module",
    )
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        metavar="T",
        help="a name from `edgec targets`, or a profile's .toml; may be repeated",
    )
    parser.add_argument("--format", choices=("onnx", "tflite"), help="default: the target's own")
    parser.add_argument("--name", metavar="N", help="the model line; default: from the file's name")
    parser.add_argument("--version", default="0.1.0", metavar="V", help="semantic version (0.1.0)")
    parser.add_argument(
        "--release", type=int, default=1, metavar="R", help="a number that grows with releases (1)"
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=1,3,224,224",
        help="fix an input's shape; a free batch becomes 1 by itself",
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration",
        metavar="DATA",
        help=".npz or folder of about 100 typical inputs, for integer precisions; needs no labels",
    )
    parser.add_argument(
        "--evaluation", metavar="DATA", help=".npz or folder; with labels, accuracy is measured"
    )
    parser.add_argument(
        "--preprocessing",
        metavar="STEPS.toml",
        help="from raw input to the model's input, and from its output to the answer",
    )
    parser.add_argument("--labels", metavar="FILE", help="names of the classes, one per line")


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument(
        "--max-accuracy-drop",
        type=float,
        metavar="FRACTION",
        help=f"fail above this loss ({DEFAULT_MAX_DROP:g} with labels; without labels it limits "
        "disagreement with the source model, if given)",
    )
    parser.add_argument(
        "--delta-base",
        metavar="BUNDLE",
        help="the bundle that devices run (or the folder of a compile for several targets): int8 "
        "weights stay near its own, so that the update is small",
    )
    parser.add_argument(
        "--delta-budget",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="with --delta-base: how large the error against the float model may be, in terms of "
        "ordinary quantisation's (1.0)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be made, and stop")
    lock = parser.add_mutually_exclusive_group()
    lock.add_argument("--lock", metavar="FILE", help="write tool versions and input digests")
    lock.add_argument("--locked", metavar="FILE", help="refuse other tools and inputs than these")
    parser.add_argument(
        "--seed", type=int, default=0, help="for noise inputs where no data is given"
    )
    parser.add_argument("--out", metavar="DIR", help="default: NAME-VERSION")


def run(arguments: argparse.Namespace) -> int:
    """Compile in a child process and print what comes of each target."""
    options = _options(arguments)
    plans = plan(options)
    if arguments.dry_run:
        _print_plans(plans, as_json=arguments.json)
        return 0
    code = 0
    for event in compile_isolated(options):
        if event["event"] == "step":
            if not arguments.json:
                print(f"  {event['step']}", file=sys.stderr, flush=True)
        elif event["error"] is not None:
            code = max(code, event["exit_code"])
            print(f"edgec: {event['error']}", file=sys.stderr)
            if arguments.json:
                print_json({"target": event["target"], "error": event["error"]})
        elif arguments.json:
            print_json(event["facts"])
        else:
            _print_result(event["facts"], event["note"])
    return code


def _options(arguments: argparse.Namespace) -> CompileOptions:
    drop = arguments.max_accuracy_drop
    if drop is not None and not 0 <= drop <= 1:
        raise UsageError(f"--max-accuracy-drop: expected a fraction 0..1, got {drop}")
    parse_shapes(arguments.shape)
    _, path, _ = kind_of(arguments.model)
    name = model_name(arguments.name, path.stem)
    return CompileOptions(
        model=arguments.model,
        targets=tuple(arguments.target),
        out=arguments.out or f"{name}-{arguments.version}",
        format=arguments.format,
        name=name,
        version=arguments.version,
        release=arguments.release,
        shapes=tuple(arguments.shape),
        calibration=arguments.calibration,
        evaluation=arguments.evaluation,
        preprocessing=arguments.preprocessing,
        labels=arguments.labels,
        precision=arguments.precision,
        max_accuracy_drop=drop,
        delta_base=arguments.delta_base,
        delta_budget=arguments.delta_budget,
        seed=arguments.seed,
        lock=arguments.lock,
        locked=arguments.locked,
    )


def _print_plans(plans: tuple[Plan, ...], *, as_json: bool) -> None:
    for one in plans:
        facts = {
            "target": one.profile.name,
            "format": one.format,
            "precision": one.precision,
            "bundle": str(one.out),
            "note": one.note,
        }
        if as_json:
            print_json(facts)
            continue
        print(f"{one.profile.name}: {one.format} at {one.precision} -> {one.out}")
        if one.note:
            print(f"  {one.note}")


def _print_result(facts: dict[str, Any], note: str | None) -> None:
    size = facts["bytes"]
    print(f"{facts['target']}: {facts['bundle']}  sha256 {facts['sha256'][:16]}")
    print(
        f"  {facts['precision']}, {human_bytes(size['source'])} -> {human_bytes(size['model'])}, "
        f"{facts['ops']['total']} operators, {facts['seconds']:.1f} s"
    )
    accuracy = facts["accuracy"]
    if accuracy is not None:
        print(f"  accuracy {accuracy['source']:.4f} -> {accuracy['compiled']:.4f}")
    print(
        f"  agrees with the source model on {facts['agreement']:.4f} of {facts['samples']} samples "
        f"({facts['data']})"
    )
    latency = facts["latency_ms"]
    if latency is not None:
        how = "measured here" if latency["measured"] else "an estimate of the target's compiler"
        print(f"  latency p50 {latency['p50']:.3f} ms, p95 {latency['p95']:.3f} ms, {how}")
    if note:
        print(f"  note: {note}")
