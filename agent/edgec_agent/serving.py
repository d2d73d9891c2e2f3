"""One loaded model with the calls that are in it: closed only when the last of them has ended."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from edgec_agent import memory
from edgec_agent.errors import UnavailableError
from edgec_bundle.manifest import Manifest
from edgec_runtime.pipeline import Pipeline

logger = logging.getLogger(__name__)


class Serving:
    """A pipeline that is, was or will be in service.

    A call enters, runs and leaves. `retire` lets nobody enter any more; whoever leaves last has
    the pipeline closed, in a thread of its own, so that no caller waits for it.
    """

    def __init__(self, manifest: Manifest, pipeline: Pipeline, *, concurrency: int | None = None):
        self.manifest = manifest
        self.pipeline = pipeline
        self.loaded_at = datetime.now(UTC)
        self._lock = threading.Lock()
        self._entered: dict[int, float] = {}  # ticket -> when, by the monotonic clock
        self._tickets = 0
        self._retired = False
        self._closed = threading.Event()
        self._turns = threading.BoundedSemaphore(concurrency or os.cpu_count() or 1)

    def enter(self) -> int | None:
        """Return a ticket to `leave` with, or None if this serving is retired."""
        with self._lock:
            if self._retired:
                return None
            self._tickets += 1
            self._entered[self._tickets] = time.monotonic()
            return self._tickets

    def leave(self, ticket: int) -> None:
        """End the call that `enter` began."""
        with self._lock:
            del self._entered[ticket]
            close = self._retired and not self._entered
        if close:
            threading.Thread(target=self._close, name="edgec-close", daemon=True).start()

    @contextmanager
    def turn(self, wait_s: float) -> Iterator[None]:
        """Hold one of the few places in which the model runs. Raises UnavailableError."""
        if not self._turns.acquire(timeout=wait_s):
            raise UnavailableError(f'model "{self.manifest.model}" is busy: no turn in {wait_s} s')
        try:
            yield
        finally:
            self._turns.release()

    def retire(self, wait_s: float = 0.0) -> bool:
        """Let nobody in any more; return whether it was closed within `wait_s` seconds."""
        with self._lock:
            idle = not self._retired and not self._entered
            self._retired = True
        if idle:
            self._close()
        return self._closed.wait(wait_s)

    @property
    def in_flight(self) -> int:
        """How many calls are inside."""
        return len(self._entered)

    @property
    def closed(self) -> bool:
        """Whether the pipeline is closed and its memory given back."""
        return self._closed.is_set()

    def oldest_call_s(self) -> float:
        """Return for how long the oldest call has been inside; 0 when empty. For watchdogs."""
        with self._lock:
            oldest = min(self._entered.values(), default=None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def _close(self) -> None:
        try:
            self.pipeline.close()
            memory.give_back()
        except Exception:
            logger.exception("closing %s %s", self.manifest.model, self.manifest.version)
        finally:
            self._closed.set()
