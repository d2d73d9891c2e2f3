"""Moves arrived messages into the database, many in one transaction, and acknowledges them then."""

import logging
import queue
import threading
import time

from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from edgec_bundle.errors import MessageError
from edgec_bundle.messages import Hello, ReplyError, Request, Topics
from edgec_fleet.db.schema import Blob, Device
from edgec_fleet.gateway import blocks, ingest, sources
from edgec_fleet.gateway.ingest import Incoming
from edgec_fleet.gateway.link import Arrived, Link
from edgec_fleet.gateway.publisher import Publisher
from edgec_fleet.rollout import assign
from edgec_fleet.server import Server

logger = logging.getLogger(__name__)

BATCH = 200
COMPLAIN_EVERY_S = 10.0  # about refused messages: a stranger must not fill the log


class Intake(threading.Thread):
    """Takes messages from the link until closed."""

    def __init__(
        self, server: Server, link: Link, publisher: Publisher, wants: blocks.Wants
    ) -> None:
        super().__init__(name="edgec-intake", daemon=True)
        self._server = server
        self._link = link
        self._publisher = publisher
        self._wants = wants
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
            except OperationalError as error:
                logger.warning("the database does not answer: %s", error.orig)
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
        self.taken += len(batch)
        self._publisher.again(one.device for one in others if isinstance(one.message, Hello))
        for one in requests:
            self._serve(one)

    def _serve(self, incoming: Incoming) -> None:
        request = incoming.message
        assert isinstance(request, Request)  # noqa: S101 (its caller chose)
        with self._server.db.read() as session:
            size = blob_size(session, incoming, request.digest)
        found = blocks.check(request, size)
        if isinstance(found, ReplyError):
            topics = Topics(incoming.tenant, incoming.device)
            blocks.refuse(self._link, topics, request, found)
        else:
            self._wants.add(blocks.Want(incoming.tenant, request.digest, found))

    def _parse(self, one: Arrived) -> Incoming | None:
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


def blob_size(session: Session, incoming: Incoming, digest: str) -> int | None:
    """Return the size of a blob that the device may have, or None."""
    blob = session.get(Blob, (incoming.tenant, digest))
    device = session.get(Device, incoming.device)
    if blob is None or device is None:
        return None
    if device.tenant != incoming.tenant or device.revoked_at is not None:
        return None
    if blob.kind == "metadata":
        return blob.bytes
    newest = assign.latest(session, device.id)
    if newest is None or digest not in sources.plan(session, device, newest).digests:
        return None
    return blob.bytes
