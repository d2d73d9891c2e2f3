"""Serves blobs in blocks: each wanted block is published once for all who want it.

Nobody gets a blob for the asking: it must be one that the asking device's newest assignment
needs. What a device lost on the way it asks for again; the bitmap of what it lacks is its own.
"""

import logging
import threading
from collections import OrderedDict, deque
from itertools import islice, takewhile

from edgec_bundle.errors import BundleError
from edgec_bundle.messages import Reply, ReplyError, Request, Topics, blob_topic, rfc3339
from edgec_bundle.store import BlobReader, BlobStore
from edgec_fleet.db.schema import utcnow
from edgec_fleet.gateway.link import Link, UnsentError
from edgec_fleet.gateway.wants import Piece, Wants

logger = logging.getLogger(__name__)

MAXIMUM_BLOCKS = 256  # of one request: 32 MiB by default; the device asks again for the rest
IN_FLIGHT = 16  # blocks handed to the socket before we wait for it
_OPEN_BLOBS = 16


def check(request: Request, size: int | None, block_bytes: int) -> tuple[int, ...] | ReplyError:
    """Return the blocks to send, or why there are none.

    Args:
        request: what a device asks for.
        size: of the blob in bytes, if this device may have it; None if not.
        block_bytes: how many bytes blocks have here.
    """
    if size is None:
        return ReplyError(code="not_assigned", message="this blob is not assigned to the device")
    if request.block_bytes != block_bytes:
        return ReplyError(code="block_size", message=f"blocks have {block_bytes} bytes here")
    count = -(-size // block_bytes)
    within = takewhile(lambda block: block < count, request.each_block())
    blocks = tuple(islice(within, MAXIMUM_BLOCKS))
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

    def __init__(self, link: Link, store: BlobStore, wants: Wants, block_bytes: int) -> None:
        super().__init__(name="edgec-blocks", daemon=True)
        self._link = link
        self._wants = wants
        self._block_bytes = block_bytes
        self._readers = _Readers(store)
        self._flying = deque()  # type: ignore[var-annotated]  # MQTTMessageInfo
        self._stopping = threading.Event()
        self.sent_blocks = 0
        self.sent_bytes = 0

    def run(self) -> None:
        """Send until closed."""
        while not self._stopping.is_set():
            piece = self._wants.next(0.5)
            try:
                if piece is not None:
                    self._send(piece)
            except UnsentError as error:
                logger.info("blocks were not sent: %s", error)
                self._flying.clear()
                self._wants.clear()  # the broker lost everybody: they ask again
                self._stopping.wait(0.5)

    def close(self) -> None:
        """Stop after the block that is being sent."""
        self._stopping.set()
        self.join(timeout=15)

    def _send(self, piece: Piece) -> None:
        try:
            reader = self._readers.get(piece.digest)
            data = reader.pread(self._block_bytes, piece.block * self._block_bytes)
        except (BundleError, OSError) as error:  # gone, or a failing disk
            logger.error("blob %s can't be served: %s", piece.digest, error)
            return
        topic = blob_topic(piece.tenant, piece.digest, piece.block)
        self._flying.append(self._link.send(topic, data))
        self.sent_blocks += 1
        self.sent_bytes += len(data)
        if len(self._flying) >= IN_FLIGHT:
            self._link.wait([self._flying.popleft()])


class _Readers:
    """The blobs that were read last, kept open."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._open: OrderedDict[str, BlobReader] = OrderedDict()

    def get(self, digest: str) -> BlobReader:
        """Return a reader of the blob. Raises BundleError."""
        if digest not in self._open:
            self._open[digest] = self._store.open(digest)
            if len(self._open) > _OPEN_BLOBS:
                self._open.popitem(last=False)  # closed when nobody holds it
        self._open.move_to_end(digest)
        return self._open[digest]
