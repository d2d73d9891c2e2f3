"""Moves arrived messages into the database, many in one transaction, and acknowledges them then."""

import logging
import queue
import threading
import time

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from edgec_bundle.errors import MessageError
from edgec_bundle.messages import Hello, ReplyError, Request, Topics
from edgec_fleet.db.schema import Blob, Device
from edgec_fleet.db.session import AWAY, unanswered
from edgec_fleet.gateway import blocks, ingest
from edgec_fleet.gateway.admission import Admission
from edgec_fleet.gateway.ingest import Incoming
from edgec_fleet.gateway.link import Arrived, Link
from edgec_fleet.gateway.publisher import Publisher
from edgec_fleet.gateway.timeline import Timeline
from edgec_fleet.gateway.wants import Wants
from edgec_fleet.registry import reach
from edgec_fleet.server import Server

logger = logging.getLogger(__name__)

BATCH = 200
_SIZE_KNOWN_S, _SIZES_KEPT = 5.0, 4096
COMPLAIN_EVERY_S = 10.0  # about refused messages: a stranger must not fill the log


class Intake(threading.Thread):
    """Takes messages from the link until closed."""

    def __init__(
        self, server: Server, link: Link, publisher: Publisher, wants: Wants, block_bytes: int
    ) -> None:
        super().__init__(name="edgec-intake", daemon=True)
        self._server = server
        self._link = link
        self._publisher = publisher
        self._wants = wants
        self._block_bytes = block_bytes
        self._admission = Admission()
        self._timeline = Timeline(server.settings.timeline_events)
        self._sizes: dict[tuple[str, str, str], tuple[int, float]] = {}  # see `_size`
        self._stopping = threading.Event()
        self._complained = float("-inf")
        self.taken = 0
        self.refused = 0

    def close(self) -> None:
        """Stop after the batch that is being written."""
        self._stopping.set()
        self.join(timeout=15)

    def run(self) -> None:
        """Take messages until closed."""
        while not self._stopping.is_set():
            batch = self._gather()
            if batch:
                self._take(batch)

    def _gather(self) -> list[Arrived]:
        batch: list[Arrived] = []
        try:
            batch.append(self._link.arrived.get(timeout=0.5))
            while len(batch) < BATCH:
                batch.append(self._link.arrived.get_nowait())
        except queue.Empty:
            pass
        return batch

    def _take(self, batch: list[Arrived]) -> None:
        """Write the batch; one message that the database refuses must not hold up the others."""
        parsed = [(one, self._parse(one)) for one in batch]
        wanted = [incoming for _, incoming in parsed if incoming is not None]
        while not self._stopping.is_set():
            try:
                self._write(wanted)
                break
            except AWAY as error:
                logger.warning("%s", unanswered(error))
                self._stopping.wait(1.0)
            except SQLAlchemyError as error:
                if len(wanted) == 1:
                    self._complain(f"{wanted[0].device}: not written: {error}")
                    break
                for incoming in wanted:
                    self._write_alone(incoming)
                break
        else:
            return  # stopped before it was safe: not acknowledged, so it comes again
        for one, _ in parsed:
            self._link.acknowledge(one)

    def _write_alone(self, incoming: Incoming) -> None:
        try:
            self._write([incoming])
        except SQLAlchemyError as error:
            self._complain(f"{incoming.device}: not written: {error}")

    def _write(self, batch: list[Incoming]) -> None:
        requests = [one for one in batch if isinstance(one.message, Request)]
        others = [one for one in batch if not isinstance(one.message, Request)]
        if others:
            with self._server.db.write() as session:
                # In the order of ids, so that two gateways never wait for each other.
                for one in sorted(others, key=lambda one: one.device):
                    if not ingest.take(session, one):
                        self._complain(f"{one.device}: not an active device of {one.tenant}")
                self._timeline.note(session, [one.device for one in others])
        self.taken += len(batch)
        greeted = [one.device for one in others if isinstance(one.message, Hello)]
        self._publisher.again(greeted)
        for device in greeted:
            self._wants.forget(device)
        if requests:
            with self._server.db.read() as session:
                for one in requests:
                    self._serve(session, one)

    def _serve(self, session: Session, incoming: Incoming) -> None:
        request = incoming.message
        assert isinstance(request, Request)  # noqa: S101 (its caller chose)
        size = self._size(session, incoming, request.digest)
        found = blocks.check(request, size, self._block_bytes)
        if isinstance(found, ReplyError):
            topics = Topics(incoming.tenant, incoming.device)
            blocks.refuse(self._link, topics, request, found)
        elif size is not None:
            self._wants.add(incoming.device, incoming.tenant, request.digest, found, size)

    def _size(self, session: Session, incoming: Incoming, digest: str) -> int | None:
        """Return the size of a blob that the device may have, or None.

        A yes is remembered for some seconds, for all devices with the same assignment.
        """
        device = session.get(Device, incoming.device)
        if device is None or device.tenant != incoming.tenant or device.revoked_at is not None:
            return None
        targets = ",".join(sorted(reach.assigned_manifests(session, device)))
        key, now = (incoming.tenant, targets, digest), time.monotonic()
        known = self._sizes.get(key)
        if known is not None and now < known[1]:
            return known[0]
        blob = session.get(Blob, (incoming.tenant, digest))
        if blob is None or not reach.may_fetch(session, device, digest):
            return None
        if len(self._sizes) >= _SIZES_KEPT:
            self._sizes.clear()
        self._sizes[key] = (blob.bytes, now + _SIZE_KNOWN_S)
        return blob.bytes

    def _parse(self, one: Arrived) -> Incoming | None:
        if not self._admission.admits(one.topic):
            self._complain(f"{one.topic[:120]!r}: too many of them; dropped")
            return None
        try:
            return ingest.parse(one.topic, one.payload)
        except MessageError as error:
            self._complain(f"{one.topic[:120]!r}: {error}")
            return None

    def _complain(self, text: str) -> None:
        self.refused += 1
        if time.monotonic() - self._complained > COMPLAIN_EVERY_S:
            self._complained = time.monotonic()
            logger.warning("message refused (%d so far): %s", self.refused, text)
