"""The Pareto table of a search, for people."""

from collections.abc import Mapping
from typing import Any

from edgec_compiler.cli.command import print_table
from edgec_compiler.recipe import Recipe
from edgec_compiler.sizes import human_bytes


def print_candidates(search: Mapping[str, Any]) -> None:
    """Print the candidates that a search tried, and which of them no other beats."""
    rows = search["candidates"]
    if len(rows) < 2:
        return
    what = search["judged_by"]
    print_table(
        [
            ("  CANDIDATE", "SIZE", what.upper(), "DROP", "ABOUT ms", ""),
            *(_row(row, what) for row in rows),
        ]
    )


def _row(row: Mapping[str, Any], what: str) -> tuple[str, ...]:
    name = f"  {Recipe.from_dict(row).words()}"
    if row["refused"] is not None:
        return name, "", "", "", "", f"refused: {row['refused']}"
    mark = "chosen" if row["chosen"] else "front" * row["front"]
    about = "" if row["estimate_ms"] is None else f"{row['estimate_ms']:.3f}"
    figures = (f"{row[what]:.4f}", f"{row['drop']:.4f}", about)
    return name, human_bytes(row["bytes"]), *figures, mark
