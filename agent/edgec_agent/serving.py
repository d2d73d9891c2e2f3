"""One loaded model with the calls that are in it: closed only when the last of them has ended."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from edgec_agent import memory
from edgec_agent.errors import ModelLoadError, UnavailableError
from edgec_bundle.errors import HistogramError
from edgec_bundle.histograms import Histogram
from edgec_bundle.manifest import Manifest, TensorSpec
from edgec_runtime.drift import observe
from edgec_runtime.errors import InputError
from edgec_runtime.golden import check_golden
from edgec_runtime.pipeline import Pipeline, load_pipeline

logger = logging.getLogger(__name__)

Array = npt.NDArray[np.generic]
Inputs = Mapping[str, Array | Sequence[bytes]]
Outputs = Mapping[str, Array]

_OBSERVE_SHARE = 20
_WARM_RUNS = 3  # the first runs of a session are slower: memory is planned, pages are touched


class Serving:
    """A pipeline that is, was or will be in service.

    A call enters, runs in its turn, and leaves. `refuse_entry` lets nobody enter any more; whoever
    leaves last has the pipeline closed, in a thread of its own, so that no caller waits for it.
    """

    def __init__(self, manifest: Manifest, pipeline: Pipeline, *, concurrency: int | None = None):
        """Wrap `pipeline`, which runs at most `concurrency` calls at a time (default: cores)."""
        self.manifest = manifest
        self.digest = manifest.digest
        self.labels = pipeline.labels
        self.pipeline = pipeline
        self.loaded_at = datetime.now(UTC)
        self._lock = threading.Lock()
        self._in_flight = 0
        self._held = 0
        self._running: dict[int, float] = {}  # thread -> since when, by the monotonic clock
        self._retired = False
        self._closed = threading.Event()
        # A LiteRT interpreter runs one call at a time anyway: wait here, where it isn't measured.
        cores = 1 if manifest.runtime.name == "litert" else os.cpu_count() or 1
        self._turns = threading.BoundedSemaphore(min(cores, concurrency or cores))
        self._observe_after = 0.0

    def enter(self) -> bool:
        """Begin a call, to be ended with `leave`; False if this serving is retired."""
        with self._lock:
            if not self._retired:
                self._in_flight += 1
            return not self._retired

    def leave(self) -> None:
        """End the call that `enter` began."""
        with self._lock:
            self._in_flight -= 1
            last = self._is_last()
        if last:
            self._close_aside()

    def hold(self) -> bool:
        """Keep this serving from being closed until `release`; False if it is retired."""
        with self._lock:
            if not self._retired:
                self._held += 1
            return not self._retired

    def release(self) -> None:
        """End what `hold` began."""
        with self._lock:
            self._held -= 1
            last = self._is_last()
        if last:
            self._close_aside()

    @contextmanager
    def turn(self, wait_s: float) -> Iterator[None]:
        """Hold one of the few places in which the model runs. Raises UnavailableError."""
        if not self._turns.acquire(timeout=wait_s):
            raise UnavailableError(
                f"model '{self.manifest.model}' is busy: no turn in {wait_s:g} s"
            )
        me = threading.get_ident()
        with self._lock:
            self._running[me] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._running[me]
            self._turns.release()

    def observe(self, inputs: Inputs, outputs: Outputs) -> Outputs:
        """Return what to count of an answered call for drift: {name: [N]}; {} to keep it cheap.

        Looking at an input again can cost as much as running a small model on it (an encoded
        image is decoded again), so a call is passed over while that would take more than a
        twentieth of the time.
        """
        started = time.monotonic()
        if not self.manifest.baseline or started < self._observe_after:
            return {}
        try:
            return observe(self.pipeline, inputs, outputs)
        except Exception:  # statistics never fail a call that was answered
            logger.exception("observing %s", self.manifest.model)
            return {}
        finally:
            self._observe_after = started + _OBSERVE_SHARE * (time.monotonic() - started)

    def baseline(self) -> dict[str, Histogram]:
        """Return the manifest's histograms that are well-formed, by name."""
        found = {}
        for name, raw in self.manifest.baseline.items():
            try:
                found[name] = Histogram.from_dict(raw)
            except HistogramError as error:
                logger.warning("%s: baseline %s: %s", self.manifest.model, name, error)
        return found

    def refuse_entry(self) -> None:
        """Let nobody in any more, and close once the last call has ended."""
        with self._lock:
            if self._retired:
                return
            self._retired = True
            last = self._is_last()
        if last:
            self._close_aside()

    def wait_closed(self, timeout_s: float) -> bool:
        """Return whether the pipeline was closed, and its memory given back, in `timeout_s`."""
        return self._closed.wait(timeout_s)

    @property
    def retired(self) -> bool:
        """Whether nobody can enter any more."""
        return self._retired

    @property
    def in_flight(self) -> int:
        """How many calls are inside."""
        return self._in_flight

    def oldest_call_s(self) -> float:
        """Return for how long the model has been running the oldest call; 0 when it is idle.

        Waiting for a turn does not count: this is for watchdogs.
        """
        with self._lock:
            oldest = min(self._running.values(), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def _is_last(self) -> bool:
        return self._retired and not self._in_flight and not self._held

    def _close_aside(self) -> None:
        threading.Thread(target=self._close, name="edgec-close", daemon=True).start()

    def _close(self) -> None:
        try:
            self.pipeline.close()
        except Exception:  # nothing can be done about it, and serving goes on
            logger.exception("closing %s %s", self.manifest.model, self.manifest.version)
        finally:
            memory.give_back()
            self._closed.set()


def load_serving(
    manifest: Manifest,
    read: Callable[[str], bytes],
    *,
    threads: int = 1,
    concurrency: int | None = None,
) -> Serving:
    """Return `manifest`'s model, loaded and warm. Raises ModelLoadError."""
    what = f"{manifest.model} {manifest.version}"
    try:
        pipeline = load_pipeline(manifest, read, threads=threads)
    except Exception as error:  # bytes, runtimes and steps of any make
        raise ModelLoadError(f"{what} cannot be loaded: {error}") from error
    try:
        _warm(manifest, pipeline, read)
    except Exception as error:
        pipeline.close()
        raise ModelLoadError(f"{what} fails its first run: {error}") from error
    return Serving(manifest, pipeline, concurrency=concurrency)


def _warm(manifest: Manifest, pipeline: Pipeline, read: Callable[[str], bytes]) -> None:
    """Run the golden samples, or zeros where there are none."""
    if manifest.golden is not None:
        result = check_golden(pipeline, read("golden"), manifest.golden)
        if not result.passed:
            # Its update was accepted once; a reboot must not turn a working model off.
            logger.warning(
                "%s %s misses golden samples: worst error %s",
                manifest.model, manifest.version, result.worst_error,
            )  # fmt: skip
        return
    inputs = {spec.name: _zeros(spec) for spec in manifest.inputs}
    if any(array is None for array in inputs.values()):
        return
    try:
        for _ in range(_WARM_RUNS):
            pipeline.infer({name: array for name, array in inputs.items() if array is not None})
    except InputError:
        logger.debug("%s: zeros are no valid input", manifest.model)


def _zeros(spec: TensorSpec) -> Array | None:
    if spec.dtype == "bytes":
        return None
    return np.zeros([1 if size == -1 else size for size in spec.shape], spec.dtype)
