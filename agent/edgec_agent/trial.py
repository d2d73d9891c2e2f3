"""A candidate on live inputs: what the comparison with its yardstick shows, for `machine.judge`."""

import time
from typing import Any

from edgec_agent.host import ModelHost
from edgec_agent.machine import Watched
from edgec_agent.serving import Serving

_CAPACITY = 64


class Trial:
    """A comparison in progress, from `start` until `close`.

    In probation the candidate answers and the yardstick is run beside it; in shadow it is the
    other way round. Without a yardstick (no memory for two) only the candidate's own failures
    count.
    """

    def __init__(
        self, host: ModelHost, candidate: Serving, yardstick: Serving | None, *, shadow: bool
    ) -> None:
        """Start comparing; whichever of the two answers must be active in `host`."""
        self.candidate = candidate
        self.yardstick = yardstick
        self._host = host
        self._shadow = shadow
        self._started = time.monotonic()
        other = candidate if shadow else yardstick
        model = candidate.manifest.model
        self._tap = host.start_tap(model, other, _CAPACITY) if other is not None else None
        self._failed_before = self._own()[1]

    @property
    def elapsed_s(self) -> float:
        """How long it has been going on."""
        return time.monotonic() - self._started

    def watched(self) -> Watched:
        """Return what was seen so far."""
        hangs_s = self.candidate.oldest_call_s()
        if self._tap is None:
            rows, failed = self._own()
            return Watched(
                samples=rows,
                agreed=rows,
                errors=failed - self._failed_before,
                stalled_s=hangs_s,
            )
        seen = self._tap.snapshot()
        mine = (seen.primary_errors, seen.primary_p95_ms)
        other = (seen.other_errors, seen.other_p95_ms)
        if self._shadow:
            mine, other = other, mine
        return Watched(
            samples=seen.samples,
            agreed=seen.agreed,
            errors=mine[0],
            yardstick_errors=other[0],
            p95_ms=mine[1],
            yardstick_p95_ms=other[1],
            stalled_s=max(seen.stalled_s, hangs_s),
        )

    def close(self) -> None:
        """End the comparison; both models stay loaded."""
        if self._tap is not None:
            self._tap.stop()

    def _own(self) -> tuple[int, int]:
        """Return the rows that the candidate answered, and its failed calls."""
        for totals in self._host.totals():
            if totals.manifest == self.candidate.digest:
                return totals.rows, totals.failures.get("model", 0)
        return 0, 0


def evidence_of(seen: Watched, minimum_agreement: float, elapsed_s: float) -> dict[str, Any]:
    """Return what was seen, for an event."""
    return {
        "samples": seen.samples,
        "agreed": seen.agreed,
        "agreement": seen.agreement,
        "minimum_agreement": minimum_agreement,
        "errors": seen.errors,
        "previous_errors": seen.yardstick_errors,
        "latency_ms_p95": seen.p95_ms,
        "previous_latency_ms_p95": seen.yardstick_p95_ms,
        "seconds": round(elapsed_s, 1),
    }
