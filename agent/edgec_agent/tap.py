"""Comparing two models on live calls, off the calls' path.

A tap is shown every call that its primary answered: it copies what it needs into a bounded queue,
or drops it, and returns. One thread of its own runs the other model on the same inputs and judges.
It rests after each call as long as that took, so that a comparison never takes more than half a
core from serving.

Latency is measured in pairs: both models run in this thread, one right after the other, in
alternating order. The primary's time on the calls' path would not do, for there it also waits for
other calls.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgec_agent.serving import Inputs, Outputs, Serving
from edgec_agent.stats import LatencySketch
from edgec_runtime.classes import agreement_by_row

logger = logging.getLogger(__name__)

_QUEUE_BYTES = 64 << 20
_PAIRS_AT_FIRST = 64  # until then every call is timed on both sides, later each eighth
_REST_S = 1.0  # at most
_AGREED_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class TapReport:
    """What was seen so far. Counts are rows (a call with batch 8 counts 8).

    samples: rows judged. agreed: rows for which both gave the same answer, or both refused.
    primary_errors, other_errors: rows of calls in which that side raised, whoever was at fault.
    *_p95_ms: of one run; None before the first pair. dropped: calls that were not judged, because
    the queue was full. stalled_s: for how long the run in progress has been going on (a candidate
    that hangs shows here).
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


@dataclass(frozen=True, slots=True)
class _Seen:
    inputs: Inputs
    outputs: Outputs | None  # None: the primary raised
    size: int  # bytes


class Tap:
    """A comparison of what `primary` answers with what `other` would, until `stop`."""

    def __init__(
        self,
        primary: Serving,
        other: Serving,
        *,
        capacity: int = 64,
        on_end: Callable[["Tap"], None] = lambda _: None,
    ) -> None:
        """Start comparing. Raises RuntimeError if either serving is retired."""
        self.primary = primary
        self.other = other
        self._on_end = on_end
        self._queue: queue.Queue[_Seen] = queue.Queue(capacity)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._queued_bytes = 0
        self._samples = self._agreed = self._dropped = 0
        self._primary_errors = self._other_errors = 0
        self._primary_ms, self._other_ms = LatencySketch(), LatencySketch()
        self._busy_since: float | None = None
        _hold_both(primary, other)  # neither is closed under our feet
        self._thread = threading.Thread(target=self._work, name="edgec-tap", daemon=True)
        self._thread.start()

    def offer(self, serving: Serving, inputs: Inputs, outputs: Outputs | None) -> None:
        """Show one call: judged later or dropped now, without waiting and without raising.

        Args:
            serving: what answered; calls of another than the primary are ignored.
            inputs: as it got them; copied.
            outputs: as it gave them, copied; None if it raised.
        """
        if serving is not self.primary or self._stopping.is_set():
            return
        size = _size_of(inputs)
        with self._lock:
            room = not self._queue.full() and self._queued_bytes + size <= _QUEUE_BYTES
            self._dropped += not room
            self._queued_bytes += size if room else 0
        if room:
            kept = None if outputs is None else {name: a.copy() for name, a in outputs.items()}
            self._put(_Seen(_copy(inputs), kept, size))

    def snapshot(self) -> TapReport:
        """Return what was seen so far."""
        with self._lock:
            since = self._busy_since
            return TapReport(
                samples=self._samples,
                agreed=self._agreed,
                primary_errors=self._primary_errors,
                other_errors=self._other_errors,
                primary_p95_ms=self._primary_ms.quantile(0.95),
                other_p95_ms=self._other_ms.quantile(0.95),
                dropped=self._dropped,
                stalled_s=0.0 if since is None else time.monotonic() - since,
            )

    def stop(self, timeout_s: float = 10.0) -> TapReport:
        """End the comparison, let go of both servings, and return what was seen.

        If a run hangs, its servings are let go when it ends, however late.
        """
        self._stopping.set()
        self._on_end(self)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return self.snapshot()

    def _put(self, seen: _Seen) -> None:
        try:
            self._queue.put_nowait(seen)
        except queue.Full:  # another call took the last place while this one was copied
            with self._lock:
                self._dropped += 1
                self._queued_bytes -= seen.size

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    seen = self._queue.get(timeout=0.1)
                except queue.Empty:
                    continue
                self._judge_safely(seen)
        finally:
            self.primary.release()
            self.other.release()

    def _judge_safely(self, seen: _Seen) -> None:
        started = time.monotonic()
        with self._lock:
            self._busy_since = started
            self._queued_bytes -= seen.size
        try:
            self._judge(seen)
        except Exception:  # a comparison must never end serving, nor itself, over one call
            logger.exception("comparing %s", self.primary.manifest.model)
        with self._lock:
            self._busy_since = None
        self._stopping.wait(min(time.monotonic() - started, _REST_S))

    def _judge(self, seen: _Seen) -> None:
        rows = rows_of(seen.inputs)
        pairs = self._other_ms.count
        timed = seen.outputs is not None and (pairs < _PAIRS_AT_FIRST or self._samples % 8 == 0)
        primary_first = timed and pairs % 2 == 0
        primary_ms = _run(self.primary, seen.inputs)[1] if primary_first else None
        outputs, other_ms = _run(self.other, seen.inputs)
        if timed and not primary_first:
            primary_ms = _run(self.primary, seen.inputs)[1]
        if seen.outputs is not None and outputs is not None:
            agreed = self._agreed_rows(seen.outputs, outputs)
        else:
            agreed = rows if seen.outputs is None and outputs is None else 0
        with self._lock:
            self._samples += rows
            self._agreed += agreed
            self._primary_errors += rows if seen.outputs is None else 0
            self._other_errors += rows if outputs is None else 0
            if primary_ms is not None and other_ms is not None:
                self._primary_ms.add(primary_ms)
                self._other_ms.add(other_ms)

    def _agreed_rows(self, ours: Outputs, theirs: Outputs) -> int:
        """Return how many rows agree; of a map, those that agree in nine places of ten."""
        try:
            shares = agreement_by_row(self.primary.manifest, ours, theirs)
        except (KeyError, IndexError, ValueError):  # not even the same outputs
            return 0
        return int((shares >= _AGREED_SHARE).sum())


def rows_of(inputs: Inputs) -> int:
    """Return the batch size of `inputs`: the length of the first, at least 1."""
    for value in inputs.values():
        if isinstance(value, np.ndarray):
            return max(1, value.shape[0]) if value.ndim else 1
        return max(1, len(value))
    return 1


def _run(serving: Serving, inputs: Inputs) -> tuple[Outputs | None, float | None]:
    """Return outputs and milliseconds of one run; None for both if it raised."""
    started = time.perf_counter()
    try:
        outputs = serving.pipeline.infer(inputs)
    except Exception as error:  # counted by the caller: this is what a tap is for
        logger.debug("%s %s: %s", serving.manifest.model, serving.manifest.version, error)
        return None, None
    return outputs, (time.perf_counter() - started) * 1e3


def _hold_both(primary: Serving, other: Serving) -> None:
    if not primary.hold():
        raise RuntimeError(f"{primary.manifest.model} {primary.manifest.version} is retired")
    if not other.hold():
        primary.release()
        raise RuntimeError(f"{other.manifest.model} {other.manifest.version} is retired")


def _size_of(inputs: Inputs) -> int:
    return sum(
        value.nbytes if isinstance(value, np.ndarray) else sum(map(len, value))
        for value in inputs.values()
    )


def _copy(inputs: Inputs) -> Inputs:
    """Return `inputs` out of reach of the caller, who may write into its arrays."""
    return {
        name: value.copy() if isinstance(value, np.ndarray) else list(value)
        for name, value in inputs.items()
    }
