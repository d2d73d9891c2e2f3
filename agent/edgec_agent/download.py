"""Blobs from the network: one downloader, several block sources, changed over when one fails.

A source only moves blocks into a `PartialBlob`. The downloader owns everything else: which source
has its turn, when to give up, resume (the partial blob survives a kill), and that nothing is kept
that does not have its digest. Every loop here ends: each turn either brings a block that was
missing, or counts as fruitless, and fruitless turns are bounded.
"""

import logging
import random
import time
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
        unreachable: there is no connection to it: the network's fault, not the source's.
        retry_after_s: how long it asked not to be asked again, or None.
    """

    def __init__(
        self,
        text: str,
        *,
        absent: bool = False,
        unreachable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(text)
        self.absent = absent
        self.unreachable = unreachable
        self.retry_after_s = retry_after_s


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

    def __init__(
        self,
        store: BlobStore,
        config: Transfer,
        interrupt: Interrupt,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._config = config
        self._interrupt = interrupt
        self._clock = clock

    def fetch(
        self, sha256: str, size: int, sources: Sequence[BlockSource], block_bytes: int
    ) -> Fetched:
        """Return when the blob is in the store, whole and verified.

        Args:
            size: what the blob must have; taken from signed metadata wherever there is any.

        Raises:
            OfflineError: no source can be reached.
            NotOfferedError: every source says that it does not have it.
            CorruptBlobError: what came did not have the digest, twice.
            FetchError: no block came for too long, or all ask to be left alone for a while.
            NoSpaceError: no room; nothing was fetched, or what was is kept.
            InterruptedWorkError: something more urgent came; what was fetched is kept.
        """
        if self._store.has(sha256):
            return Fetched()
        if size > self._config.largest_bytes:
            raise FetchError(f"a blob of {size} bytes is larger than this device takes")
        turns = _Turns(list(sources), self._config.rounds, self._clock)
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
                turns.progress(failure)
            else:
                self._interrupt.sleep(turns.fail(failure))


class _Turns:
    """Whose turn it is, and when to give up."""

    def __init__(self, sources: list[BlockSource], rounds: int, clock: Callable[[], float]) -> None:
        self._sources = sources
        self._rounds = max(rounds, 1)
        self._clock = clock
        self._at = 0
        self._fruitless = 0
        self._failures: dict[str, SourceError] = {}
        self._resting: dict[str, float] = {}  # name -> until when it asked not to be asked
        self.used: set[str] = set()
        self.came = False  # whether any block came

    def source(self) -> BlockSource:
        """Return the source whose turn it is: the last one, until it fails."""
        ready = self._ready()
        if not ready:
            raise OfflineError("not connected to any source")
        awake = [at for at in ready if self._rest_s(self._sources[at].name) <= 0]
        if not awake:
            raise self._given_up()
        self._at = next((at for at in awake if at >= self._at), awake[0])
        self.used.add(self._sources[self._at].name)
        return self._sources[self._at]

    def progress(self, error: SourceError) -> None:
        """Note that blocks came, though not all; the next source has its turn."""
        self._fruitless = 0
        self._failures.clear()
        self._rest(error)
        self._next()
        self.came = True

    def spoiled(self) -> None:
        """Note that what came was wrong, so that nothing is left of it."""
        self._next()
        self.came = False

    def fail(self, error: SourceError) -> float:
        """Note that the source has no more for now; return how long to pause. Raises FetchError."""
        name = self._sources[self._at].name
        self._failures[name] = error
        self._rest(error)
        self._fruitless += 1
        self._next()
        ready = [self._sources[at].name for at in self._ready()]
        asked_all = all(one in self._failures for one in ready)
        if asked_all and all(failure.absent for failure in self._failures.values()):
            raise NotOfferedError(self._reasons())
        if self._fruitless >= self._rounds * max(1, len({*ready, name})):
            raise self._given_up()
        chance = random.random()  # noqa: S311  # spreads a fleet, hides nothing
        return backoff_s(self._fruitless, _PAUSE_S, 30.0, chance) if asked_all else 0.0

    def _rest(self, error: SourceError) -> None:
        if error.retry_after_s is not None:
            self._resting[self._sources[self._at].name] = self._clock() + error.retry_after_s

    def _next(self) -> None:
        self._at = (self._at + 1) % len(self._sources)

    def _ready(self) -> list[int]:
        return [at for at, one in enumerate(self._sources) if one.is_ready()]

    def _rest_s(self, name: str) -> float:
        return self._resting.get(name, 0.0) - self._clock()

    def _reasons(self) -> str:
        return "; ".join(f"{name}: {failure}" for name, failure in self._failures.items())

    def _given_up(self) -> FetchError:
        """Return what to raise: a network that is away is waited for, a server that fails not."""
        failures = self._failures.values()
        if failures and all(failure.unreachable for failure in failures):
            return OfflineError(self._reasons())
        error = FetchError(self._reasons() or "the server asks for time")
        rests = [rest for name in self._resting if (rest := self._rest_s(name)) > 0]
        error.retry_after_s = min(rests, default=None)
        return error


def write_if_missing(partial: PartialBlob, index: int, data: bytes) -> bool:
    """Store a block from a stranger; return whether it was missing and of the right size."""
    if not 0 <= index < partial.blocks or partial.has_block(index):
        return False
    if len(data) != block_size(partial, index):
        return False
    partial.write_block(index, data)
    return True


def block_size(partial: PartialBlob, index: int) -> int:
    """Return how many bytes block `index` has."""
    return min(partial.block_bytes, partial.size - index * partial.block_bytes)
