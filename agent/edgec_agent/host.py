"""Which model answers: one reference per model, taken once per call, swapped without a gap.

The host decides nothing about updates. Whoever does, loads a candidate aside (`load`), puts it
into service (`activate`, which returns what was there before), lets it be compared on live calls
(`start_tap`), and lets go of what is no longer needed (`retire`).
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgec_agent.errors import (
    InferenceError,
    RequestError,
    ServingError,
    UnavailableError,
    UnknownModelError,
)
from edgec_agent.serving import Inputs, Outputs, Serving, load_serving
from edgec_agent.stats import Failure, Recorder, Totals, Window
from edgec_agent.tap import Tap, rows_of
from edgec_bundle.manifest import Manifest
from edgec_runtime.errors import InputError

_REMEMBERED = 8  # manifests per model whose counts are kept


class _Slot:
    """What is known of one model. Changed under the lock; `active` and `taps` read without."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.active: Serving | None = None
        self.draining = False
        self.taps: tuple[Tap, ...] = ()
        self.recorders: dict[str, Recorder] = {}  # by manifest digest, oldest first
        self.swaps = 0

    def recorder(self, serving: Serving) -> Recorder:
        """Return the recorder of `serving`'s manifest."""
        found = self.recorders.get(serving.digest)
        if found is not None:
            return found
        with self.changed:
            manifest = serving.manifest
            made = Recorder(manifest.model, serving.digest, manifest.version, serving.baseline())
            found = self.recorders.setdefault(serving.digest, made)
            while len(self.recorders) > _REMEMBERED:
                del self.recorders[next(iter(self.recorders))]
        return found


class Call:
    """One call on one serving: what it was checked against is what runs and what it reports."""

    def __init__(self, slot: _Slot, serving: Serving, wait_s: float) -> None:
        self.manifest: Manifest = serving.manifest
        self.digest: str = serving.digest
        self.labels: tuple[str, ...] = serving.labels
        self._slot = slot
        self._serving = serving
        self._wait_s = wait_s

    def run(self, inputs: Inputs) -> Outputs:
        """Return the outputs for `inputs`, [N, ...] each.

        Raises:
            RequestError: the inputs do not fit the model.
            UnavailableError: no turn in time.
            InferenceError: the model failed.
        """
        outputs: Outputs | None = None
        try:
            with self._serving.turn(self._wait_s):
                started = time.perf_counter()
                outputs = self._infer(inputs)
                ms = (time.perf_counter() - started) * 1e3
        except UnavailableError:
            self._count("busy")
            raise
        except ServingError as error:
            self._count("input" if isinstance(error, RequestError) else "model")
            self._show_taps(inputs, None)
            raise
        observed = self._serving.observe(inputs, outputs)
        self._slot.recorder(self._serving).answered(rows_of(inputs), ms, observed)
        self._show_taps(inputs, outputs)
        return outputs

    def reject(self, reread: Callable[[Manifest], Inputs]) -> None:
        """Count a call whose request does not even fit the interface of this manifest.

        Taps are told if it would fit the other side's: a release that changed its interface
        must not pass for flawless because nothing reaches it any more.

        Args:
            reread: returns the request's inputs as another manifest has them, or raises
                RequestError.
        """
        self._count("input")
        for tap in self._slot.taps:
            try:
                inputs = reread(tap.other.manifest)
            except RequestError:
                continue  # the caller's fault, whoever answers
            tap.offer(self._serving, inputs, None)

    def _count(self, failure: Failure) -> None:
        self._slot.recorder(self._serving).failed(failure)

    def _infer(self, inputs: Inputs) -> Outputs:
        try:
            return self._serving.pipeline.infer(inputs)
        except InputError as error:
            raise RequestError(str(error)) from error
        except Exception as error:  # whatever a runtime throws, serving goes on
            raise InferenceError(f"model '{self.manifest.model}' failed: {error}") from error

    def _show_taps(self, inputs: Inputs, outputs: Outputs | None) -> None:
        for tap in self._slot.taps:
            tap.offer(self._serving, inputs, outputs)


class ModelHost:
    """Every model that this device serves. All methods may be called from any thread."""

    def __init__(
        self, *, threads: int = 1, concurrency: int | None = None, wait_s: float = 30.0
    ) -> None:
        """Make an empty host.

        Args:
            threads: threads inside one run of a model.
            concurrency: runs of one model at the same time; default: the number of cores.
            wait_s: how long a call waits for its turn, or for a model that is being exchanged.
        """
        self._threads = threads
        self._concurrency = concurrency
        self._wait_s = wait_s
        self._slots: dict[str, _Slot] = {}
        self._lock = threading.Lock()

    def load(self, manifest: Manifest, read: Callable[[str], bytes]) -> Serving:
        """Return `manifest`'s model, loaded and warm, not yet in service.

        Args:
            manifest: of a bundle whose `requires` this device fulfils.
            read: role -> verified bytes.

        Raises:
            ModelLoadError: it could not be loaded, or failed its first run.
        """
        return load_serving(manifest, read, threads=self._threads, concurrency=self._concurrency)

    def activate(self, model: str, serving: Serving) -> Serving | None:
        """Answer `model`'s calls from `serving` from now on; return what answered before.

        Calls in flight end where they began. Taps on the previous serving see no more calls.
        Raises ValueError for a serving of another model, RuntimeError for a retired one.
        """
        if serving.manifest.model != model:
            raise ValueError(f"expected a serving of {model}, got one of {serving.manifest.model}")
        with self._lock:
            slot = self._slots.setdefault(model, _Slot())
        with slot.changed:
            if serving.retired:
                raise RuntimeError(f"{model} {serving.manifest.version} is retired")
            previous, slot.active = slot.active, serving
            slot.draining = False
            slot.swaps += previous is not serving
            slot.changed.notify_all()
        slot.recorder(serving)
        return previous if previous is not serving else None

    def active(self, model: str) -> Serving | None:
        """Return what answers `model`'s calls now."""
        slot = self._slots.get(model)
        return slot.active if slot else None

    def models(self) -> tuple[str, ...]:
        """Return the names of the models in service, sorted."""
        return tuple(sorted(name for name, slot in self._each() if slot.active))

    def is_ready(self) -> bool:
        """Return whether there is a model, and none is being exchanged."""
        slots = self._each()
        return any(slot.active for _, slot in slots) and not any(s.draining for _, s in slots)

    def expect(self, model: str) -> None:
        """Let calls of `model` wait (up to the host's `wait_s`) for its first `activate`.

        For a start with several models: until the last of them is loaded, or removed, the host
        is not ready, and no call is refused as unknown.
        """
        with self._lock:
            slot = self._slots.setdefault(model, _Slot())
        with slot.changed:
            slot.draining = slot.active is None

    def drain(self, model: str, wait_s: float = 30.0) -> bool:
        """Take `model` out of service and free it *before* its successor is loaded.

        For devices without memory for two: calls that come meanwhile wait (up to the host's
        `wait_s`) for the next `activate`. Returns whether it was closed within `wait_s`.
        """
        previous = self._take_out(model, draining=True)
        return previous is None or self.retire(previous, wait_s)

    def remove(self, model: str) -> Serving | None:
        """Stop answering for `model`: unknown from now on. Return what answered."""
        return self._take_out(model, draining=False)

    def retire(self, serving: Serving, wait_s: float = 0.0) -> bool:
        """Close `serving` when its last call has ended, and give its memory back.

        Returns whether that was so within `wait_s`. Raises RuntimeError if it is in service.
        """
        slot = self._slots.get(serving.manifest.model) or _Slot()
        with slot.changed:
            if slot.active is serving:
                raise RuntimeError(f"{serving.manifest.model} is served from it: activate another")
            serving.refuse_entry()
        return serving.wait_closed(wait_s)

    @contextmanager
    def call(self, model: str, version: str | None = None) -> Iterator[Call]:
        """Hold the serving that answers this call: one reference for all of it.

        Raises:
            UnknownModelError: not served here, or not in `version`.
            UnavailableError: being exchanged for longer than `wait_s`.
        """
        slot = self._slots.get(model)
        if slot is None:
            raise UnknownModelError(model)
        serving = self._enter(slot, model, version)
        try:
            yield Call(slot, serving, self._wait_s)
        finally:
            serving.leave()

    def infer(
        self, model: str, inputs: Inputs, version: str | None = None
    ) -> tuple[Outputs, Manifest]:
        """Return the outputs for `inputs`, and the manifest that computed them.

        Raises:
            UnknownModelError: not served here, or not in `version`.
            RequestError: the inputs do not fit the model.
            UnavailableError: no turn within `wait_s`.
            InferenceError: the model failed.
        """
        with self.call(model, version) as call:
            return call.run(inputs), call.manifest

    def start_tap(self, model: str, other: Serving, capacity: int = 64) -> Tap:
        """Compare what `model` answers now with what `other` would, off the calls' path.

        At most `capacity` calls wait to be judged; more are dropped and counted. Raises
        UnknownModelError if nothing is in service, RuntimeError if `other` is retired.
        """
        slot = self._slots.get(model)
        if slot is None or slot.active is None:
            raise UnknownModelError(model)
        tap = Tap(slot.active, other, capacity=capacity, on_end=lambda t: _without(slot, t))
        with slot.changed:
            slot.taps = (*slot.taps, tap)
        return tap

    def stats(self, model: str, *, reset: bool = False) -> Window:
        """Return the window of the serving that is active. Raises UnknownModelError."""
        serving = self.active(model)
        if serving is None:
            raise UnknownModelError(model)
        return self._slots[model].recorder(serving).window(reset=reset)

    def take_windows(self) -> tuple[Window, ...]:
        """Return and reset every window in which there was a call, oldest manifest first."""
        taken = []
        for _, slot in self._each():
            with slot.changed:
                recorders = tuple(slot.recorders.values())
            taken += [recorder.window(reset=True) for recorder in recorders]
        return tuple(window for window in taken if window.requests)

    def totals(self) -> tuple[Totals, ...]:
        """Return the counts since the start, one per model and manifest remembered."""
        found = []
        for _, slot in self._each():
            with slot.changed:
                recorders = tuple(slot.recorders.values())
            found += [recorder.totals() for recorder in recorders]
        return tuple(found)

    def swaps(self, model: str) -> int:
        """Return how often what answers for `model` was exchanged, the first time included."""
        slot = self._slots.get(model)
        return slot.swaps if slot else 0

    def taps(self, model: str) -> tuple[Tap, ...]:
        """Return the comparisons in progress."""
        slot = self._slots.get(model)
        return slot.taps if slot else ()

    def close(self, wait_s: float = 5.0) -> None:
        """Stop every tap, take every model out of service and close it."""
        for name, slot in self._each():
            for tap in slot.taps:
                tap.stop()
            serving = self.remove(name)
            if serving is not None:
                self.retire(serving, wait_s)

    def _each(self) -> tuple[tuple[str, _Slot], ...]:
        with self._lock:
            return tuple(self._slots.items())

    def _take_out(self, model: str, *, draining: bool) -> Serving | None:
        slot = self._slots.get(model)
        if slot is None:
            return None
        with slot.changed:
            previous, slot.active = slot.active, None
            slot.draining = draining
            slot.changed.notify_all()
        return previous

    def _enter(self, slot: _Slot, model: str, version: str | None) -> Serving:
        while True:
            serving = slot.active or self._await_successor(slot, model)
            if version and version != serving.manifest.version:
                raise UnknownModelError(model, version=version, serving=serving.manifest.version)
            if serving.enter():
                return serving
            # Retired between the two steps, so a successor is in place already: look again.

    def _await_successor(self, slot: _Slot, model: str) -> Serving:
        with slot.changed:
            slot.changed.wait_for(lambda: slot.active or not slot.draining, self._wait_s)
            if slot.active is not None:
                return slot.active
            if slot.draining:
                raise UnavailableError(f"model '{model}' is being exchanged")
        raise UnknownModelError(model)


def _without(slot: _Slot, tap: Tap) -> None:
    with slot.changed:
        slot.taps = tuple(other for other in slot.taps if other is not tap)
