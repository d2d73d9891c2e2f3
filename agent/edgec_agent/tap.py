"""Comparing two models on live calls, off the calls' path."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TapReport:
    """What was seen so far. Counts are rows (a call with batch 8 counts 8).

    samples: rows judged. agreed: rows for which both gave the same answer, or both refused.
    primary_errors, other_errors: rows of calls in which that side raised, whoever was at fault.
    *_p95_ms: of one run, both sides measured in the tap's own thread, alternately; None before
    the first. dropped: calls that were not judged because the queue was full. stalled_s: for how
    long the run that is being judged has been going on (a candidate that hangs shows here).
    """

    samples: int
    agreed: int
    primary_errors: int
    other_errors: int
    primary_p95_ms: float | None
    other_p95_ms: float | None
    dropped: int
    stalled_s: float

    @property
    def agreement(self) -> float | None:
        """agreed / samples, or None without samples."""
        return self.agreed / self.samples if self.samples else None


class Tap:
    """A comparison in progress."""

    def snapshot(self) -> TapReport:
        """Return what was seen so far."""
        raise NotImplementedError

    def stop(self, timeout_s: float = 10.0) -> TapReport:
        """End the comparison and let go of both servings; return what was seen."""
        raise NotImplementedError
