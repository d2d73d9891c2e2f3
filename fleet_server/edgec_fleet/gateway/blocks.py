"""Serves blobs in blocks: wants of many devices are merged, each block is published once for all.

Nobody gets a blob for the asking: it must be one that the asking device's newest assignment
needs. What a device lost on the way it asks for again; the bitmap of what it lacks is its own.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edgec_bundle.errors import BundleError
from edgec_bundle.messages import Reply, ReplyError, Request, Topics, blob_topic, rfc3339
from edgec_bundle.store import DEFAULT_BLOCK_BYTES, BlobStore
from edgec_fleet.db.schema import utcnow
from edgec_fleet.gateway.link import Link, UnsentError

logger = logging.getLogger(__name__)

WINDOW_S = 0.05  # how long wants are gathered before the first block goes out
MAXIMUM_BLOCKS = 256  # of one request: 32 MiB; the device asks again for the rest
IN_FLIGHT = 16  # blocks handed to the socket before we wait for it


@dataclass(frozen=True, slots=True)
class Want:
    """A blob that somebody may have, and the blocks that are missing."""

    tenant: str
    digest: str
    blocks: tuple[int, ...]


class Wants:
    """Merges wants; safe to use from several threads. Order of blobs: first come, first served."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._wanted: dict[tuple[str, str], set[int]] = {}
        self._since: float | None = None
        self._changed = threading.Condition()

    def add(self, want: Want) -> None:
        """Take in what one device wants."""
        with self._changed:
            self._wanted.setdefault((want.tenant, want.digest), set()).update(want.blocks)
            if self._since is None:
                self._since = self._clock()
            self._changed.notify_all()

    def take(self, timeout_s: float) -> list[Want]:
        """Wait for wants, gather for `WINDOW_S`, and return them merged; [] after the timeout."""
        with self._changed:
            if self._since is None and not self._changed.wait_for(
                lambda: self._since is not None, timeout_s
            ):
                return []
            self._changed.wait(max(0.0, WINDOW_S - (self._clock() - (self._since or 0.0))))
            merged = [
                Want(tenant, digest, tuple(sorted(blocks)))
                for (tenant, digest), blocks in self._wanted.items()
            ]
            self._wanted, self._since = {}, None
            return merged


def check(request: Request, size: int | None) -> tuple[int, ...] | ReplyError:
    """Return the blocks to send, or why there are none.

    Args:
        request: what a device asks for.
        size: of the blob in bytes, if this device may have it; None if not.
    """
    if size is None:
        return ReplyError(code="not_assigned", message="this blob is not assigned to the device")
    if request.block_bytes != DEFAULT_BLOCK_BYTES:
        return ReplyError(
            code="block_size", message=f"blocks have {DEFAULT_BLOCK_BYTES} bytes here"
        )
    count = -(-size // DEFAULT_BLOCK_BYTES)
    blocks = tuple(block for block in request.blocks() if block < count)[:MAXIMUM_BLOCKS]
    if not blocks:
        return ReplyError(code="no_such_block", message=f"the blob has {count} blocks")
    return blocks


def refuse(link: Link, topics: Topics, request: Request, error: ReplyError) -> None:
    """Tell the device why its request brings nothing."""
    reply = Reply(at=rfc3339(utcnow()), re=request.id, ok=False, error=error)
    try:
        link.send(topics.down("reply"), reply.to_bytes(), qos=1)
    except UnsentError as problem:
        logger.warning("no answer to %s: %s", topics.device, problem)


class BlockSender(threading.Thread):
    """Publishes wanted blocks: QoS 0, not retained, no faster than the socket takes them."""

    def __init__(self, link: Link, store: BlobStore, wants: Wants) -> None:
        super().__init__(name="edgec-blocks", daemon=True)
        self._link = link
        self._store = store
        self._wants = wants
        self._stopping = threading.Event()
        self.sent_blocks = 0
        self.sent_bytes = 0

    def run(self) -> None:
        """Send until closed."""
        while not self._stopping.is_set():
            try:
                self._send(self._wants.take(0.5))
            except UnsentError as error:
                logger.info("blocks were not sent: %s", error)
                self._stopping.wait(0.5)

    def close(self) -> None:
        """Stop after the block that is being sent."""
        self._stopping.set()
        self.join(timeout=15)

    def _send(self, wants: Iterable[Want]) -> None:
        flying = deque()  # type: ignore[var-annotated]  # MQTTMessageInfo
        for want in wants:
            try:
                reader = self._store.open(want.digest)
            except BundleError as error:
                logger.error("blob %s can't be served: %s", want.digest, error)
                continue
            for block in want.blocks:
                if self._stopping.is_set():
                    return
                try:
                    data = reader.pread(DEFAULT_BLOCK_BYTES, block * DEFAULT_BLOCK_BYTES)
                except OSError as error:  # a failing disk
                    logger.error("blob %s can't be served: %s", want.digest, error)
                    break
                topic = blob_topic(want.tenant, want.digest, block)
                flying.append(self._link.send(topic, data))
                self.sent_blocks += 1
                self.sent_bytes += len(data)
                if len(flying) >= IN_FLIGHT:
                    self._link.wait([flying.popleft()])
        self._link.wait(list(flying))
