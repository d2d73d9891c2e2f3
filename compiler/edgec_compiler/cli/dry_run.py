"""`edgec compile --dry-run`: opens the model and says what would be made, or refused."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from edgec_compiler.cli.command import print_json
from edgec_compiler.cli.progress import progress_for
from edgec_compiler.isolated import run_isolated
from edgec_compiler.options import CompileOptions
from edgec_compiler.planning import Plan
from edgec_compiler.precisions import needs_calibration


def rehearsed(options: CompileOptions, plans: Sequence[Plan], *, as_json: bool) -> int:
    """Print what each target would get, or why it would be refused; return the exit code.

    Raises:
        CompilerError: nothing could be compiled at all.
    """
    refused: Mapping[str, Any] = {}
    with (
        closing(run_isolated("rehearse", options.model, options.to_dict())) as events,
        closing(progress_for([], quiet=as_json)) as progress,
    ):
        for event in events:
            if event["event"] == "step":
                progress.step(event["target"], event["step"])
            else:
                refused = event["refused"]
    compression = options.compress.to_dict() if options.compress else None
    for one in plans:
        why = refused.get(one.profile.name)
        _print(one, compression, why and why["error"], as_json=as_json)
    return max((why["exit_code"] for why in refused.values()), default=0)


def _print(
    one: Plan, compression: Mapping[str, object] | None, refused: str | None, *, as_json: bool
) -> None:
    if refused is not None:
        print(f"edgec: {refused}", file=sys.stderr, flush=True)
    if as_json:
        facts = {
            "target": one.profile.name,
            "format": one.format,
            "precision": one.recipe.precision,
            "bundle": str(one.out),
            "note": one.note,
            "compression": compression,
            "tries": list(one.tries),
            "refused": refused,
        }
        print_json(facts)
        return
    if refused is not None:
        return
    print(f"{one.profile.name}: {one.format} at {one.recipe.precision} -> {one.out}")
    if one.tries:
        print(f"  {_tried(one)}")
    if one.note:
        print(f"  {one.note}")
    if compression is not None:
        print("  " + ", ".join(f"{key} {value}" for key, value in compression.items()))


def _tried(one: Plan) -> str:
    """Return what a search may try, in order."""
    integers = [p for p in one.tries if needs_calibration(p, one.format)]
    more = f"; of {', '.join(integers)} also other calibration methods, corrections" * bool(
        integers
    )
    floats = " and layers in float" * (bool(integers) and not one.profile.full_integer)
    return f"searches, in this order: {', '.join(one.tries)}{more}{floats}"
