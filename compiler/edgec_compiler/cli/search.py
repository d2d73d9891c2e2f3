"""`edgec search`: the best net of a recipe that a target has time and memory for, compiled."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec_compiler.architecture import Candidate, Found, Limits, SearchOptions, Sizes, search
from edgec_compiler.architecture.searching import BUDGET, LimitsMissedError
from edgec_compiler.cli.command import (
    add_json,
    describe,
    print_json,
    print_table,
)
from edgec_compiler.cli.compile import print_result
from edgec_compiler.errors import UsageError
from edgec_compiler.isolated import compile_isolated
from edgec_compiler.naming import model_name
from edgec_compiler.options import DEFAULT_MAX_DROP, CompileOptions
from edgec_compiler.planning import plan
from edgec_compiler.sizes import human_bytes

_EXAMPLE = """edgec search models/keywords/train.py --target cortex-m7 --max-memory 65536 \\
      --budget 200 --out keywords-search"""
# Files beside a recipe that the best net is compiled with, where no option names others.
_BESIDE = {
    "calibration": "calibration.npz",
    "evaluation": "evaluation.npz",
    "preprocessing": "steps.toml",
    "labels": "labels.txt",
}
# Limits of sizes; what the device itself has is one anyway.
_SIZES = {
    "--max-memory": "weights and activations together",
    "--max-ram": "activations alone, where weights stay in flash (TFLite Micro: the arena)",
    "--max-flash": "the file of the model",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, _EXAMPLE, run)
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a Python file with build(width, depth), example(), train(module, seed, epochs) and "
        "evaluate(module); its code is run",
    )
    parser.add_argument(
        "--target", required=True, metavar="T", help="a name from `edgec targets`, or a .toml"
    )
    parser.add_argument(
        "--max-latency-ms", type=float, metavar="X", help="estimated, per inference"
    )
    for option, help_text in _SIZES.items():
        parser.add_argument(option, type=int, metavar="BYTES", help=help_text)
    parser.add_argument(
        "--budget", type=int, default=BUDGET, metavar="N", help=f"epochs over all nets ({BUDGET})"
    )
    for option, file in _BESIDE.items():
        parser.add_argument(
            f"--{option}",
            metavar="FILE",
            help=f"for compiling the best net; default: {file} beside the recipe",
        )
    parser.add_argument("--name", metavar="N", help="the model line; default: the recipe's folder")
    parser.add_argument("--seed", type=int, default=0, help="of weights and training (0)")
    parser.add_argument("--out", metavar="DIR", help="default: NAME-search; goes on from there")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search, print the table, compile the best net."""
    recipe = Path(arguments.recipe)
    name = model_name(arguments.name, recipe.resolve().parent.name)
    out = Path(arguments.out or f"{name}-search")
    compiling = _compiling(arguments, name, out)
    (one,) = plan(compiling)  # what cannot be compiled is told before anything is trained
    options = SearchOptions(
        recipe=recipe,
        target=arguments.target,
        out=out,
        limits=_limits(arguments),
        calibrated=compiling.calibration is not None,
        budget=arguments.budget,
        seed=arguments.seed,
    )
    try:
        found = search(options, lambda step: print(f"  {step}", file=sys.stderr, flush=True))
    except LimitsMissedError as error:
        rows = _rows(error.sizes, error.refused)
        if arguments.json:
            print_json({"target": arguments.target, "error": str(error), "candidates": rows})
        else:
            _print(rows)
        raise
    rows = _rows(found.sizes, found.refused, found)
    if not arguments.json:
        _print(rows)
    (result,) = (event for event in compile_isolated(compiling) if event["event"] == "result")
    if arguments.json:
        print_json(_facts(arguments.target, found, rows, result["facts"]))
    if result["error"] is not None:
        print(f"edgec: the best net does not compile: {result['error']}", file=sys.stderr)
        return int(result["exit_code"])
    if not arguments.json:
        print(f"best: {found.best.name}, {found.model}")
        accelerator = one.profile.support is not None and one.profile.support.on != "cpu"
        print_result({**result["facts"], "cached": False}, accelerator=accelerator)
        _warn(result["facts"], compiling)
    return 0


def _limits(arguments: argparse.Namespace) -> Limits:
    for option in ("--max-latency-ms", *_SIZES):
        value = getattr(arguments, option[2:].replace("-", "_"))
        if value is not None and not value > 0:
            raise UsageError(f"{option}: expected more than 0, got {value:g}")
    return Limits(
        latency_ms=arguments.max_latency_ms,
        memory_bytes=arguments.max_memory,
        activation_bytes=arguments.max_ram,
        model_bytes=arguments.max_flash,
    )


def _compiling(arguments: argparse.Namespace, name: str, out: Path) -> CompileOptions:
    """Return how the best net will be compiled, with what lies beside the recipe."""
    folder = Path(arguments.recipe).parent
    given: dict[str, Any] = {}
    for option, file in _BESIDE.items():
        named = getattr(arguments, option)
        given[option] = named or (str(folder / file) if (folder / file).exists() else None)
    return CompileOptions(
        model=str(out / "best.pt2"),
        targets=(arguments.target,),
        out=str(out / "bundle"),
        name=name,
        max_accuracy_drop=1.0,  # the score of the search decides; the loss is told
        **given,
    )


def _warn(facts: dict[str, Any], options: CompileOptions) -> None:
    """Say if quantising takes back what the search has won."""
    accuracy = facts["accuracy"]
    lost = 0.0 if accuracy is None else accuracy["source"] - accuracy["compiled"]
    if lost > DEFAULT_MAX_DROP:
        print(
            f"  note: {facts['precision']} loses {lost:.4f}: `edgec sensitivity {options.model}` "
            f"names the layers, `edgec compile {options.model}` has what helps"
        )


def _rows(
    sizes: Mapping[Candidate, Sizes], refused: Mapping[Candidate, str], found: Found | None = None
) -> list[dict[str, Any]]:
    """Return all nets as --json prints them: the best, those trained longest, the others."""

    def row(one: Candidate) -> dict[str, Any]:
        size = sizes.get(one)
        return {
            "width": one.width,
            "depth": one.depth,
            "score": None if found is None else found.scores.get(one),
            "epochs": 0 if found is None else found.epochs.get(one, 0),
            "best": found is not None and one == found.best,
            "pareto": found is not None and one in found.front,
            "refused": refused.get(one),
            **({} if size is None else size.to_dict()),
        }

    def order(one: dict[str, Any]) -> tuple[Any, ...]:
        score = one["score"]
        return not one["best"], -one["epochs"], 0.0 if score is None else -score

    return sorted(map(row, sorted({*sizes, *refused})), key=order)


def _facts(target: str, found: Found, rows: list[dict[str, Any]], compiled: Any) -> dict[str, Any]:
    return {
        "target": target,
        "best": {"width": found.best.width, "depth": found.best.depth, "score": found.score},
        "model": str(found.model),
        "candidates": rows,
        "compiled": compiled,
    }


def _print(rows: list[dict[str, Any]]) -> None:
    table = [("net", "score", "epochs", "latency", "memory", "RAM", "flash", "")]
    for one in rows:
        latency, score = one.get("latency_ms"), one["score"]
        said = one["refused"] or ("Pareto" if one["pareto"] else "")
        sizes = (one.get(f"{kind}_bytes") for kind in ("memory", "activation", "model"))
        memory, ram, flash = ("-" if size is None else human_bytes(size) for size in sizes)
        table.append(
            (
                Candidate(one["width"], one["depth"]).name,
                "-" if score is None else f"{score:.4f}",
                str(one["epochs"]),
                "-" if latency is None else f"{latency:.3f} ms",
                *(memory, ram, flash),
                "best" if one["best"] else said,
            )
        )
    print_table(table)
    if len({one["epochs"] for one in rows if one["epochs"]}) > 1:
        print("A score after fewer epochs is what a net had reached when it was left behind.")
