"""Blobs from the network: one downloader, several block sources, changed over when one fails.

A source only moves blocks into a `PartialBlob`. The downloader owns everything else: which source
has its turn, when to give up, resume (the partial blob survives a kill), and that nothing is kept
that does not have its digest. Every loop here ends: each turn either brings a block that was
missing, or counts as fruitless, and fruitless turns are bounded.
"""

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from edgec_agent.config import Transfer
from edgec_agent.errors import (
    AgentError,
    CorruptBlobError,
    FetchError,
    NotOfferedError,
    OfflineError,
)
from edgec_agent.interrupt import Interrupt
from edgec_agent.machine import backoff_s
from edgec_bundle.errors import BlobBusyError, DigestMismatchError
from edgec_bundle.store import BlobStore, PartialBlob

logger = logging.getLogger(__name__)

_CORRUPT_LIMIT = 2  # a blob that came wrong this often is not asked for a third time
_PAUSE_S = 0.5


class SourceError(AgentError):
    """A source has no more blocks for now.

    Attributes:
        absent: the source says that it does not have the blob, or not for this device.
    """

    def __init__(self, text: str, *, absent: bool = False) -> None:
        super().__init__(text)
        self.absent = absent


class BlockSource(Protocol):
    """One way to blocks."""

    @property
    def name(self) -> str:
        """What evidence calls it: "mqtt", "http", "pack"."""

    def is_ready(self) -> bool:
        """Return whether a turn makes sense now."""

    def pull(self, partial: PartialBlob, interrupt: Interrupt) -> None:
        """Write missing blocks until none is missing, or as many as come.

        Raises:
            SourceError: no more come.
        """


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a blob cost."""

    bytes: int = 0  # 0: it was here already
    sources: tuple[str, ...] = ()


class Downloader:
    """Fetches blobs into `store`, one at a time."""

    def __init__(self, store: BlobStore, config: Transfer, interrupt: Interrupt) -> None:
        self._store = store
        self._config = config
        self._interrupt = interrupt

    def fetch(
        self, sha256: str, size: int, sources: Sequence[BlockSource], block_bytes: int
    ) -> Fetched:
        """Return when the blob is in the store, whole and verified.

        Args:
            size: what the blob must have; taken from signed metadata wherever there is any.

        Raises:
            OfflineError: no source is ready.
            NotOfferedError: every source says that it does not have it.
            CorruptBlobError: what came did not have the digest, twice.
            FetchError: no block came for too long.
            NoSpaceError: no room; nothing was fetched, or what was is kept.
            InterruptedWorkError: something more urgent came; what was fetched is kept.
        """
        if self._store.has(sha256):
            return Fetched()
        if size > self._config.largest_bytes:
            raise FetchError(f"a blob of {size} bytes is larger than this device takes")
        turns = _Turns(list(sources), self._config.rounds)
        try:
            return self._fetch(sha256, size, block_bytes, turns)
        except FetchError as error:
            error.progressed = turns.came
            raise

    def _fetch(self, sha256: str, size: int, block_bytes: int, turns: "_Turns") -> Fetched:
        for _ in range(_CORRUPT_LIMIT):
            with self._partial(sha256, size, block_bytes) as partial:
                self._fill(partial, turns)
                try:
                    partial.commit()
                except DigestMismatchError as error:
                    logger.warning("%s; starting over", error)
                    turns.spoiled()
                    continue
                return Fetched(size, tuple(sorted(turns.used)))
        raise CorruptBlobError(f"blob {sha256[:12]} came wrong {_CORRUPT_LIMIT} times")

    @contextmanager
    def _partial(self, sha256: str, size: int, block_bytes: int) -> Iterator[PartialBlob]:
        try:
            partial = self._store.begin(sha256, size, block_bytes)
        except BlobBusyError as error:
            raise FetchError(str(error)) from error
        try:
            yield partial
        finally:
            partial.close()

    def _fill(self, partial: PartialBlob, turns: "_Turns") -> None:
        while missing := len(partial.missing()):
            self._interrupt.check()
            source = turns.source()
            try:
                source.pull(partial, self._interrupt)
                failure = SourceError("sent nothing")
            except SourceError as error:
                failure = error
            left = len(partial.missing())
            if left:
                logger.info("%s: %s; %d blocks to go", source.name, failure, left)
            if left < missing:
                turns.progress()
            else:
                self._interrupt.sleep(turns.fail(failure))


class _Turns:
    """Whose turn it is, and when to give up."""

    def __init__(self, sources: list[BlockSource], rounds: int) -> None:
        self._sources = sources
        self._rounds = max(rounds, 1)
        self._at = 0
        self._fruitless = 0
        self._failures: dict[str, SourceError] = {}
        self.used: set[str] = set()
        self.came = False  # whether any block came

    def source(self) -> BlockSource:
        """Return the source whose turn it is: the last one, until it fails."""
        for offset in range(len(self._sources)):
            at = (self._at + offset) % len(self._sources)
            if self._sources[at].is_ready():
                self._at = at
                self.used.add(self._sources[at].name)
                return self._sources[at]
        raise OfflineError("not connected to any source")

    def progress(self) -> None:
        """Note that blocks came, though not all; the next source has its turn."""
        self._fruitless = 0
        self._failures.clear()
        self._at += 1
        self.came = True

    def spoiled(self) -> None:
        """Note that what came was wrong, so that nothing is left of it."""
        self._at += 1
        self.came = False

    def fail(self, error: SourceError) -> float:
        """Note that the source has no more for now; return how long to pause. Raises FetchError."""
        name = self._sources[self._at].name
        self._failures[name] = error
        self._fruitless += 1
        self._at += 1
        others = [one for one in self._sources if one.is_ready() and one.name != name]
        reasons = "; ".join(f"{name}: {failure}" for name, failure in self._failures.items())
        asked_all = all(one.name in self._failures for one in others)
        if asked_all and all(failure.absent for failure in self._failures.values()):
            raise NotOfferedError(reasons)
        if self._fruitless >= self._rounds * max(1, len(others) + 1):
            raise FetchError(reasons)
        chance = random.random()  # noqa: S311  # spreads a fleet, hides nothing
        return backoff_s(self._fruitless, _PAUSE_S, 30.0, chance) if asked_all else 0.0


class Feed(Protocol):
    """Blocks of one blob, as they arrive over MQTT."""

    def request(self, blocks: Sequence[int], block_bytes: int) -> bool:
        """Ask the server for `blocks`; False if it can't be asked now."""

    def next(self, timeout_s: float) -> tuple[int, bytes] | None:
        """Return the next block (number, bytes), or None. Raises SourceError if refused."""

    def close(self) -> None:
        """End the subscription."""


class MqttSource:
    """Blocks over MQTT: asked for by bitmap, published once for all who asked."""

    name = "mqtt"

    def __init__(
        self, is_connected: Callable[[], bool], feed: Callable[[str], Feed], config: Transfer
    ) -> None:
        """Use `feed(digest)` while `is_connected()`."""
        self._is_connected = is_connected
        self._feed = feed
        self._config = config

    def is_ready(self) -> bool:
        """Return whether the broker is connected."""
        return self._is_connected()

    def pull(self, partial: PartialBlob, interrupt: Interrupt) -> None:
        """Ask for missing blocks, a window at a time, until none is missing."""
        feed = self._feed(partial.digest)
        try:
            stalls = 0
            while missing := partial.missing():
                wanted = missing[: self._config.window_blocks]
                if not feed.request(wanted, partial.block_bytes):
                    raise SourceError("not connected")
                came = self._receive(feed, partial, set(wanted), interrupt)
                stalls = 0 if came else stalls + 1
                if stalls >= self._config.stalls:
                    raise SourceError(f"no block came in {stalls} requests")
        finally:
            feed.close()

    def _receive(
        self, feed: Feed, partial: PartialBlob, wanted: set[int], interrupt: Interrupt
    ) -> int:
        """Take blocks until all `wanted` came, or none for a while; return how many were new."""
        came = waited = 0.0
        while wanted and waited < self._config.stall_s:
            interrupt.check()
            found = feed.next(0.25)
            if found is None:
                waited += 0.25
                continue
            index, data = found
            if write_if_missing(partial, index, data):
                came += 1
                waited = 0.0
            wanted.discard(index)
        return int(came)


def write_if_missing(partial: PartialBlob, index: int, data: bytes) -> bool:
    """Store a block from a stranger; return whether it was missing and of the right size."""
    if not 0 <= index < partial.blocks or partial.has_block(index):
        return False
    if len(data) != min(partial.block_bytes, partial.size - index * partial.block_bytes):
        return False
    partial.write_block(index, data)
    return True
