"""`edgec check`: where a target runs each operator of a model, why not, and what would help."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from edgec_compiler.cli.command import add_json, add_shape, describe, print_json, print_table
from edgec_compiler.errors import MissingExtraError, UsageError
from edgec_hardware_profiles import Profile, load

if TYPE_CHECKING:  # other commands start faster without it
    from edgec_compiler.mapping.checking import Mapping
    from edgec_compiler.mapping.rewriting import Rewriting


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    describe(parser, "edgec check model.tflite --target coral-edgetpu --rewrite better.tflite", run)
    parser.add_argument("model", metavar="MODEL", help="a TFLite or ONNX file, or a bundle")
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
    add_shape(parser, "fix the shape of an ONNX model's input")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the mapping; with --rewrite, that of the rewritten model."""
    try:
        from edgec_compiler.mapping.exact import map_model
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
    mapping = map_model(model, profile, arguments.shape)
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


def _print_mapping(mapping: "Mapping", profile: Profile) -> None:
    how = "as its compiler made it" if mapping.basis == "compiled" else "predicted"
    where = f"{mapping.accelerated} of {mapping.total} operators run on the accelerator ({how})"
    if profile.support is None:
        where = f"all {mapping.total} operators run on the CPU: it has no accelerator"
    print(f"{mapping.target}: {where}")
    counted = Counter((verdict.op, verdict.on) for verdict in mapping.ops)
    rows = [(f"  {op}", str(count), on) for (op, on), count in counted.items()]
    print_table([("  OPERATOR", "COUNT", "ON"), *rows])
    for verdict in mapping.ops:
        if verdict.reason is not None:
            print(f"{verdict.index} {verdict.op}: {verdict.reason}")
            if verdict.fix is not None:
                print(f"  try: {verdict.fix}")
    for note in mapping.notes:
        print(f"note: {note}")
