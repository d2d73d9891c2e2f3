"""Sizes and shares in words."""

from collections.abc import Mapping
from typing import Any


def human_bytes(count: float) -> str:
    """Return a size for people: "512 B", "70.1 kB", "3.20 MB"."""
    if count < 1000:
        return f"{count:.0f} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"


def accelerated_share(ops: Mapping[str, Any], what: str = "") -> str:
    """Return the "ops" of a compile's facts for people, with `what` behind the count.

    "27 of 27"; "at least 0 of 14 (15 of the file's 216)", where the count is the least.
    """
    counted = f"{ops['accelerated']} of {ops['total']}{what}"
    if "file" not in ops:
        return counted
    of_file = ops["file"]
    return f"at least {counted} ({of_file['accelerated']} of the file's {of_file['total']})"
