"""What a model's calls were like: counts, latency quantiles, drift histograms.

Everything is constant in memory however many calls are recorded, and adds up: two tallies merge
by addition. A `Recorder` keeps two of them, one since the start (for /metrics) and one since the
last report (a window, for telemetry).
"""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgec_bundle.histograms import Histogram

Failure = Literal["input", "model", "busy"]

_GROWTH = math.log(1.04)  # buckets 4 % wide, so a quantile is right to within 2 %
_FLOOR_MS = 1e-3  # anything quicker counts as one microsecond
_PENDING = 1024  # observed values that are kept before they are counted, all at once
_LAST = math.ceil(math.log(1e9) / _GROWTH)  # and anything slower as 1000 s


class LatencySketch:
    """Durations in buckets that grow by 4 %: quantiles to within 2 %, in constant memory."""

    def __init__(self) -> None:
        self.count = 0
        self.sum_ms = 0.0
        self._buckets: dict[int, int] = {}

    def add(self, ms: float) -> None:
        """Count one duration of `ms` milliseconds (>= 0)."""
        bucket = 0 if ms <= _FLOOR_MS else min(_LAST, int(math.log(ms / _FLOOR_MS) / _GROWTH) + 1)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.sum_ms += ms

    def merge(self, other: "LatencySketch") -> None:
        """Add everything that `other` counted."""
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count
        self.count += other.count
        self.sum_ms += other.sum_ms

    def quantile(self, q: float) -> float | None:
        """Return the duration in ms that a share `q` (0..1) did not exceed; None when empty."""
        if not self.count:
            return None
        rank = max(1, math.ceil(q * self.count))
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                break
        return _FLOOR_MS * math.exp(max(0.0, bucket - 0.5) * _GROWTH)


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds that runs of a model's pipeline took; None where nothing ran."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Window:
    """What one manifest served between two moments.

    requests = answered + failed + refused. `failed`: the model failed, or the call found no free
    turn in time. `refused`: the caller's input was wrong.
    """

    model: str
    manifest: str  # digest
    version: str
    start: datetime  # UTC, by this device's clock
    end: datetime
    requests: int
    failed: int
    refused: int
    rows: int  # inferences: the sum of the batch sizes answered
    latency_ms: Latency
    histograms: Mapping[str, Histogram]


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of one manifest since the agent started."""

    model: str
    manifest: str
    version: str
    answered: int
    rows: int
    failures: Mapping[Failure, int]
    latency_ms: Latency
    latency_sum_ms: float
    last_ms: float  # when the last call was answered, Unix time in ms; 0: none yet


@dataclass(slots=True)
class _Tally:
    start: datetime = field(default_factory=lambda: datetime.now(UTC))
    answered: int = 0
    rows: int = 0
    failures: dict[Failure, int] = field(default_factory=dict)
    latency: LatencySketch = field(default_factory=LatencySketch)

    def quantiles(self) -> Latency:
        return Latency(*(self.latency.quantile(q) for q in (0.5, 0.95, 0.99)))


class Recorder:
    """Counts the calls of one manifest; safe to use from any thread."""

    def __init__(
        self, model: str, manifest: str, version: str, histograms: Mapping[str, Histogram]
    ) -> None:
        """Start counting; `histograms` gives names and edges of what is observed."""
        self.model = model
        self.manifest = manifest
        self.version = version
        self._lock = threading.Lock()
        self._total = _Tally()
        self._window = _Tally()
        self._last_ms = 0.0
        self._empty = {name: Histogram.empty(h.edges) for name, h in histograms.items()}
        self._histograms = dict(self._empty)
        self._pending: dict[str, list[npt.NDArray[np.generic]]] = {}
        self._pending_values = 0

    def answered(
        self, rows: int, ms: float, observed: Mapping[str, npt.NDArray[np.generic]]
    ) -> None:
        """Count one answered call of `rows` rows that ran for `ms` milliseconds."""
        with self._lock:
            self._last_ms = time.time() * 1e3
            for tally in (self._total, self._window):
                tally.answered += 1
                tally.rows += rows
                tally.latency.add(ms)
            for name, values in observed.items():
                if name in self._empty:
                    self._pending.setdefault(name, []).append(values)
                    self._pending_values += values.size
            if self._pending_values >= _PENDING:
                self._count_pending()

    def failed(self, failure: Failure) -> None:
        """Count one call that ended in `failure`."""
        with self._lock:
            for tally in (self._total, self._window):
                tally.failures[failure] = tally.failures.get(failure, 0) + 1

    def window(self, *, reset: bool = False) -> Window:
        """Return what was counted since the last reset; with `reset`, start a new window."""
        with self._lock:
            self._count_pending()
            tally, histograms = self._window, dict(self._histograms)
            if reset:
                self._window, self._histograms = _Tally(), dict(self._empty)
        refused = tally.failures.get("input", 0)
        failed = sum(tally.failures.values()) - refused
        return Window(
            model=self.model,
            manifest=self.manifest,
            version=self.version,
            start=tally.start,
            end=datetime.now(UTC),
            requests=tally.answered + failed + refused,
            failed=failed,
            refused=refused,
            rows=tally.rows,
            latency_ms=tally.quantiles(),
            histograms=histograms,
        )

    def totals(self) -> Totals:
        """Return the counts since this recorder was made."""
        with self._lock:
            tally = self._total
            return Totals(
                model=self.model,
                manifest=self.manifest,
                version=self.version,
                answered=tally.answered,
                rows=tally.rows,
                failures=dict(tally.failures),
                latency_ms=tally.quantiles(),
                latency_sum_ms=tally.latency.sum_ms,
                last_ms=self._last_ms,
            )

    def _count_pending(self) -> None:
        for name, parts in self._pending.items():
            self._histograms[name] = self._histograms[name].add(np.concatenate(parts))
        self._pending = {}
        self._pending_values = 0
