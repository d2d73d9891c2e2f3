"""`edgec check`: where a target runs each operator of a model, why not, and what would help."""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from edgec_compiler.cli.as_compiled import compile_into, has_operators_of
from edgec_compiler.cli.command import (
    add_json,
    add_shape,
    describe,
    print_json,
    print_table,
    visible,
)
from edgec_compiler.errors import MissingExtraError, UsageError
from edgec_hardware_profiles import Profile, load

if TYPE_CHECKING:  # other commands start faster without it
    from edgec_compiler.mapping.checking import Mapping
    from edgec_compiler.mapping.rewriting import Rewriting


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec check model.tflite --target coral-edgetpu --rewrite better.tflite", run)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a model as `edgec compile` takes it, or a bundle; what is not of the target's format "
        "is compiled first",
    )
    parser.add_argument(
        "--target",
        required=True,
        metavar="T",
        help="a name from `edgec targets`, or a profile's .toml",
    )
    parser.add_argument(
        "--rewrite",
        metavar="OUT",
        help="write the model with all safe fixes, proven to give equal outputs (TFLite)",
    )
    add_shape(parser, "fix an input's shape")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the mapping; with --rewrite, that of the rewritten model."""
    try:
        from edgec_compiler.mapping.rewriting import rewrite_model
    except ImportError as error:
        raise MissingExtraError("compiler", f"checking a model (module {error.name})") from error
    profile = load(arguments.target)
    rewriting = None
    model = arguments.model
    if arguments.rewrite is not None:
        rewriting = rewrite_model(model, profile)
        _write(Path(arguments.rewrite), rewriting.payload)
        model = arguments.rewrite
    mapping = _mapping(model, profile, arguments)
    if arguments.json:
        facts = mapping.to_json()
        if rewriting is not None:
            facts["rewrites"] = list(rewriting.done)
            facts["proven_inputs"] = rewriting.proven
        print_json(facts)
        return 0
    if rewriting is not None:
        _print_rewriting(rewriting, arguments.rewrite)
    _print_mapping(mapping, profile)
    return 0


def _mapping(model: str, profile: Profile, arguments: argparse.Namespace) -> "Mapping":
    from edgec_compiler.mapping.exact import map_model

    if has_operators_of(model, profile):
        return map_model(model, profile, arguments.shape)
    with TemporaryDirectory(prefix="edgec-check-") as folder:
        shapes = tuple(arguments.shape)
        bundle, precision = compile_into(
            Path(folder), model, arguments.target, shapes, quiet=arguments.json
        )
        mapping = map_model(str(bundle), profile)
    note = f"the operators are those that edgec compile makes of {model} at {precision}"
    return replace(mapping, notes=(note, *mapping.notes))


def _write(path: Path, payload: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(payload)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"--rewrite {path}: {error.strerror or error}") from error


def _print_rewriting(rewriting: "Rewriting", out: str) -> None:
    for done in rewriting.done:
        print(f"rewritten: {done}")
    for dropped in rewriting.dropped:
        print(f"not rewritten: {dropped}")
    if rewriting.done:
        print(f"{out}: equal outputs on {rewriting.proven} inputs")
    else:
        print(f"{out}: nothing to rewrite, written as it is")


def _where(mapping: "Mapping", profile: Profile) -> str:
    if profile.support is not None and profile.support.on != "cpu":
        how = "as its compiler made it" if mapping.basis == "compiled" else "predicted"
        return f"{mapping.accelerated} of {mapping.total} operators run on the accelerator ({how})"
    refused = sum(verdict.reason is not None for verdict in mapping.ops)
    if refused:
        return f"{refused} of {mapping.total} operators have no kernel there"
    return f"all {mapping.total} operators run on the CPU: it has no accelerator"


def _print_mapping(mapping: "Mapping", profile: Profile) -> None:
    print(f"{mapping.target}: {_where(mapping, profile)}")
    counted = Counter((verdict.op, verdict.on) for verdict in mapping.ops)
    rows = [(f"  {op}", str(count), on) for (op, on), count in counted.items()]
    print_table([("  OPERATOR", "COUNT", "ON"), *rows])
    for verdict in mapping.ops:
        if verdict.reason is not None:
            print(visible(f"{verdict.index} {verdict.op}: {verdict.reason}"))
            if verdict.fix is not None:
                print(f"  try: {verdict.fix}")
    for note in mapping.notes:
        print(visible(f"note: {note}"))
