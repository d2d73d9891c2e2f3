"""`edgec compile`: a trained model in, one bundle per target out."""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgec_compiler.cache.running import compile_remembered
from edgec_compiler.cli import compressing
from edgec_compiler.cli.asked import name_of, options_of
from edgec_compiler.cli.caching import add_cache
from edgec_compiler.cli.candidates import print_candidates
from edgec_compiler.cli.command import add_json, add_shape, describe, print_json, visible
from edgec_compiler.cli.dry_run import rehearsed
from edgec_compiler.cli.progress import progress_for
from edgec_compiler.errors import UsageError
from edgec_compiler.locking import check_place, differences, lock_run
from edgec_compiler.options import DEFAULT_MAX_DROP, CompileOptions
from edgec_compiler.planning import plan
from edgec_compiler.precisions import PRECISIONS
from edgec_compiler.recipe import METHODS
from edgec_compiler.report import index_page
from edgec_compiler.sizes import accelerated_share, human_bytes

_EXAMPLE = """edgec compile digits.onnx --target rpi4 --target generic-x86_64 --name digits \\
      --version 1.0.0 --calibration calibration.npz --evaluation test.npz \\
      --preprocessing steps.toml --labels labels.txt --out build"""


INDEX = "report.html"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, _EXAMPLE, run)
    _add_what(parser)
    _add_data(parser)
    _add_how(parser)
    compressing.add(parser)
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
    add_shape(parser, "fix an input's shape; a free batch becomes 1 by itself")


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
    _add_quantisation(parser)
    _add_goals(parser)
    _add_delta(parser)
    _add_running(parser)
    add_cache(parser)


def _add_quantisation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibration-method",
        choices=METHODS,
        default="minmax",
        help="how ranges of activations follow from the calibration data: all of it, 99.99 %% of "
        "it, or what loses least by squares or by entropy (minmax)",
    )
    parser.add_argument(
        "--float-layer",
        action="append",
        default=[],
        metavar="NAME",
        help="a layer that stays in float, as `edgec compare` names it; may be repeated",
    )
    parser.add_argument(
        "--equalize",
        action="store_true",
        help="even out the ranges of neighbouring layers' channels before quantising",
    )
    parser.add_argument(
        "--bias-correction",
        action="store_true",
        help="take the mean error of every quantised layer off its bias",
    )


def _add_goals(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-accuracy-drop",
        type=float,
        metavar="FRACTION",
        help=f"fail above this loss ({DEFAULT_MAX_DROP:g} with labels; without labels it limits "
        "disagreement with the source model, if given)",
    )
    parser.add_argument(
        "--optimize-for",
        choices=("speed", "size"),
        default="speed",
        help="what --precision auto makes best while the budget is kept (speed)",
    )
    parser.add_argument(
        "--search-budget",
        type=float,
        metavar="SECONDS",
        help="of --precision auto, for each target; what was judged is not judged again next time",
    )
    parser.add_argument(
        "--max-candidates",
        type=int,
        default=32,
        metavar="N",
        help="that --precision auto tries for each target (32)",
    )


def _add_delta(parser: argparse.ArgumentParser) -> None:
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


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="open the model, say what would be made or refused, and stop",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="targets made at a time (default: as many as cores and memory allow)",
    )
    lock = parser.add_mutually_exclusive_group()
    lock.add_argument(
        "--lock", metavar="FILE", help="write tool versions, input and profile digests, options"
    )
    lock.add_argument("--locked", metavar="FILE", help="refuse anything else than these")
    parser.add_argument(
        "--seed", type=int, default=0, help="for noise inputs where no data is given"
    )
    parser.add_argument("--out", metavar="DIR", help="default: NAME-VERSION")


def run(arguments: argparse.Namespace) -> int:
    """Compile in a child process and print what comes of each target."""
    options = _options(arguments)
    plans = plan(options)
    profiles = [one.profile for one in plans]
    if options.lock is not None:
        check_place(Path(options.lock))
    if options.locked is not None:
        unlike = differences(Path(options.locked), options, profiles)
        options = replace(options, unlike=unlike)  # told with those of the inputs and tools
    if arguments.dry_run:
        return rehearsed(options, plans, as_json=arguments.json)
    tables = {one.name: one.support for one in profiles}
    accelerators = {name for name, table in tables.items() if table and table.on != "cpu"}
    signal.signal(signal.SIGTERM, _leave)
    names = [one.profile.name for one in plans]
    progress = progress_for(names, quiet=arguments.json)
    code, told = 0, dict[str, dict[str, Any]]()
    with closing(compile_remembered(options, plans)) as events, closing(progress):
        for event in events:
            if event["event"] == "step":
                progress.step(event["target"], event["step"])
                continue
            code = max(code, event["exit_code"])
            progress.end(event["target"], "done" if event["error"] is None else "failed")
            told[event["target"]] = event
            with progress.aside():
                while names and names[0] in told:  # in the order in which they were asked for
                    ended = told[names.pop(0)]
                    accelerator = ended["target"] in accelerators
                    _print_event(ended, as_json=arguments.json, accelerator=accelerator)
    if options.lock is not None:
        lock_run(Path(options.lock), options, profiles)
    if len(plans) > 1:
        _write_index(options, told, [one.profile.name for one in plans])
    return code


def _write_index(
    options: CompileOptions, told: Mapping[str, Mapping[str, Any]], targets: Sequence[str]
) -> None:
    """Write the page that compares the targets, beside their bundles. Raises UsageError."""
    ended = [told[target] for target in targets if target in told]
    made = [event["facts"] for event in ended if event["error"] is None]
    failed = {event["target"]: event["error"] for event in ended if event["error"] is not None}
    if not made:
        return
    out = Path(options.out)
    page = index_page(f"{options.name} {options.version}", made, failed)
    temporary = out / f".{INDEX}.tmp"
    try:
        temporary.write_text(page, "utf-8")
        temporary.replace(out / INDEX)
    except OSError as error:
        raise UsageError(f"--out {out / INDEX}: {error.strerror or error}") from error


def _leave(signum: int, frame: object) -> None:
    """End as an error would: the worker is ended and everything put away."""
    raise SystemExit(128 + signum)


def _print_event(event: dict[str, Any], *, as_json: bool, accelerator: bool) -> None:
    if event["error"] is not None:
        print(f"edgec: {visible(event['error'])}", file=sys.stderr, flush=True)
        if as_json:
            details = event.get("details") or {}
            print_json({"target": event["target"], "error": event["error"], **details})
        elif event.get("details"):
            print_candidates(event["details"]["search"])
    elif as_json:
        print_json(event["facts"])
    else:
        print_result(event["facts"], accelerator=accelerator)
        sys.stdout.flush()


def _options(arguments: argparse.Namespace) -> CompileOptions:
    if arguments.jobs is not None and arguments.jobs < 1:
        raise UsageError(f"--jobs: expected 1 or more, got {arguments.jobs}")
    name = name_of(arguments, arguments.name)
    return options_of(
        arguments,
        targets=tuple(arguments.target),
        out=arguments.out or f"{name}-{arguments.version}",
        name=name,
        version=arguments.version,
        release=arguments.release,
        float_layers=tuple(arguments.float_layer),
        equalise=arguments.equalize,
        bias_correction=arguments.bias_correction,
        optimize_for=arguments.optimize_for,
        search_budget=arguments.search_budget,
        max_candidates=arguments.max_candidates,
        delta_base=arguments.delta_base,
        delta_budget=arguments.delta_budget,
        seed=arguments.seed,
        lock=arguments.lock,
        locked=arguments.locked,
        jobs=arguments.jobs,
        compress=compressing.wanted(arguments),
    )


def _latency(latency: dict[str, Any]) -> str:
    if latency["measured"]:
        return f"p50 {latency['p50']:.3f} ms, p95 {latency['p95']:.3f} ms, measured here"
    return f"about {latency['ms']:.3g} ms (estimate by the {latency['by']}, not measured)"


def print_result(facts: dict[str, Any], *, accelerator: bool) -> None:
    """Print what came of one target, for people."""
    size, ops = facts["bytes"], facts["ops"]
    operators = f"{ops['total']} operators"
    if accelerator:
        operators = accelerated_share(ops, " operators on the accelerator")
    cached = "  (cached)" if facts["cached"] else ""
    print(f"{facts['target']}: {facts['bundle']}  sha256 {facts['sha256'][:16]}{cached}")
    print(
        f"  {facts['precision']}, {human_bytes(size['source'])} -> {human_bytes(size['model'])}, "
        f"{operators}, {facts['seconds']:.1f} s"
    )
    for line in compressing.lines(facts["compression"]) if "compression" in facts else ():
        print(f"  {line}")
    accuracy = facts["accuracy"]
    if accuracy is not None:
        print(f"  accuracy {accuracy['source']:.4f} -> {accuracy['compiled']:.4f}")
    print(
        f"  agrees with the source model on {facts['agreement']:.4f} of {facts['samples']} samples "
        f"({facts['data']})"
    )
    latency = facts["latency_ms"]
    if latency is not None:
        print(f"  latency {_latency(latency)}")
    if facts.get("search"):
        print_candidates(facts["search"])
    for note in facts["notes"]:
        print(f"  note: {note}")
