"""Words for the reason of a step: which devices failed and how, and what a threshold allows."""

import math
from collections.abc import Sequence
from typing import Protocol

NAMED = 5  # devices that one reason names


class Failed(Protocol):
    """A device that failed."""

    @property
    def device(self) -> str:
        """Its id."""

    @property
    def state(self) -> str:
        """How: "failed", "rejected", "rolled_back"."""

    @property
    def reason(self) -> str | None:
        """Why, in its own words."""


def names(failures: Sequence[Failed]) -> str:
    """Return the first devices with how and why each failed, and how many more there are."""
    named = [
        f"{one.device} {one.state.replace('_', ' ')}" + (f" ({one.reason})" if one.reason else "")
        for one in failures[:NAMED]
    ]
    more = len(failures) - NAMED
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")


def share(threshold: float, total: int) -> str:
    """Return how many of `total` devices a threshold (a fraction) allows, as in ``1 (5 %)``."""
    return f"{math.floor(threshold * total + 1e-9)} ({threshold * 100:g} %)"
