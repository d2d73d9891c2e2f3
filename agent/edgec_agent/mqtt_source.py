"""Blocks over MQTT: asked for by bitmap, published by the server once for all who asked.

What is lost is asked for again, but only when the connection brings nothing at all for a while:
a block on a slow link takes minutes, and whoever asks again too soon gets everything twice. How
many blocks are asked for ahead grows with each one that comes and halves when none does.
"""

import random
import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from edgec_agent.config import Transfer
from edgec_agent.download import SourceError, write_if_missing
from edgec_agent.interrupt import Interrupt
from edgec_bundle.store import PartialBlob

_FIRST_WINDOW = 8  # blocks
_POLL_S = 0.25


class Feed(Protocol):
    """Blocks of one blob, as they arrive over MQTT."""

    def request(self, blocks: Sequence[int], block_bytes: int) -> bool:
        """Ask the server for `blocks`; False if it can't be asked now."""

    def next(self, timeout_s: float) -> tuple[int, bytes] | None:
        """Return the next block (number, bytes), or None. Raises SourceError if refused."""

    def received_bytes(self) -> int:
        """Return a number that grows while anything arrives on the connection."""

    def close(self) -> None:
        """End the subscription."""


class MqttSource:
    """The broker's connection as a block source."""

    name = "mqtt"

    def __init__(
        self,
        is_connected: Callable[[], bool],
        feed: Callable[[str], Feed],
        config: Transfer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use `feed(digest)` while `is_connected()`."""
        self._is_connected = is_connected
        self._feed = feed
        self._config = config
        self._clock = clock

    def is_ready(self) -> bool:
        """Return whether the broker is connected."""
        return self._is_connected()

    def pull(self, partial: PartialBlob, interrupt: Interrupt) -> None:
        """Ask for missing blocks, a window ahead of what came, until none is missing."""
        feed = self._feed(partial.digest)
        try:
            _Pull(feed, partial, self._config, self._clock, self._is_connected).run(interrupt)
        finally:
            feed.close()


class _Pull:
    """One turn of the source."""

    def __init__(
        self,
        feed: Feed,
        partial: PartialBlob,
        config: Transfer,
        clock: Callable[[], float],
        is_connected: Callable[[], bool],
    ) -> None:
        self._feed = feed
        self._partial = partial
        self._config = config
        self._clock = clock
        self._is_connected = is_connected
        self._window = min(_FIRST_WINDOW, config.window_blocks)
        self._missing = dict.fromkeys(partial.missing())  # in order
        self._awaited: set[int] = set()
        self._stalls = 0
        self._block_at = self._byte_at = clock()  # when the last useful block, the last byte came
        self._bytes = feed.received_bytes()
        self._patience_s = self._new_patience()

    def run(self, interrupt: Interrupt) -> None:
        """Return when no block is missing. Raises SourceError."""
        while self._missing:
            interrupt.check()
            if not self._awaited:
                self._ask()
            found = self._feed.next(0.0)  # others may have asked for what we lack
            if found is None:
                if 2 * len(self._awaited) <= self._window:
                    self._ask()
                found = self._feed.next(_POLL_S)
            if found is not None and write_if_missing(self._partial, *found):
                self._came(found[0])
            else:
                self._check_stalled()

    def _ask(self) -> None:
        """Ask for the missing blocks that are next, up to a full window."""
        unasked = (block for block in self._missing if block not in self._awaited)
        wanted = list(islice(unasked, self._window - len(self._awaited)))
        if not wanted:
            return
        if not self._feed.request(wanted, self._partial.block_bytes):
            raise SourceError("not connected", unreachable=True)
        self._awaited.update(wanted)

    def _came(self, block: int) -> None:
        del self._missing[block]
        self._awaited.discard(block)
        self._window = min(self._window + 1, self._config.window_blocks)
        self._stalls = 0
        self._block_at = self._clock()

    def _check_stalled(self) -> None:
        """Ask again for what did not come in time. Raises SourceError if it never comes."""
        now, received = self._clock(), self._feed.received_bytes()
        if received != self._bytes:
            self._bytes, self._byte_at = received, now
        if not self._is_connected():
            raise SourceError("the connection was lost", unreachable=True)
        silent_s = now - max(self._byte_at, self._block_at)
        if silent_s < self._patience_s and now - self._block_at < self._config.block_timeout_s:
            return
        self._stalls += 1
        if self._stalls >= self._config.stalls:
            raise SourceError(f"no block came in {self._stalls} requests")
        self._awaited.clear()
        self._window = max(1, self._window // 2)
        self._byte_at = self._block_at = now
        self._patience_s = self._new_patience()

    def _new_patience(self) -> float:
        """Return how long to bear silence: jittered, so that a fleet doesn't ask again at once."""
        chance = random.random()  # noqa: S311  # spreads a fleet, hides nothing
        return self._config.stall_s * (1 + chance / 2)
