"""Tells devices what is desired: signs each new assignment, and publishes it, retained.

An assignment waits until its patches are made and the broker lets its device read their blocks;
it never waits longer than `PATCH_WAIT`: then the full files have to do. What was published is
published again when the trust metadata it names is replaced, when the director's signature grows
old (with a new counter), and when a device says hello (a broker may have lost what it retained).
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_bundle.errors import BundleError
from edgec_bundle.messages import BlobRef, Desired, Topics, rfc3339
from edgec_fleet import director
from edgec_fleet.db.schema import Assignment, Device, Part, TrustSet, utcnow
from edgec_fleet.errors import FleetError
from edgec_fleet.gateway import sources
from edgec_fleet.gateway.link import Link
from edgec_fleet.gateway.packets import PacketLimits
from edgec_fleet.gateway.wants import Wants
from edgec_fleet.rollout import assign
from edgec_fleet.server import Server

logger = logging.getLogger(__name__)

PATCH_WAIT = timedelta(minutes=10)
FRESH_BROKER = timedelta(seconds=30)  # a broker part whose last beat is older has gone
BATCH = 500  # assignments looked at in one step
GRANT_WAIT = timedelta(seconds=10)  # for the broker to let the device read its blobs


@dataclass(frozen=True, slots=True)
class Ready:
    """A `desired` message to send, and what to write down when the broker has it."""

    device: str
    counter: int
    generation: int
    topic: str
    payload: bytes


class Publisher:
    """Publishes what is due; `step` is called again and again."""

    def __init__(self, server: Server, link: Link, wants: Wants, limits: PacketLimits) -> None:
        self._server = server
        self._link = link
        self._wants = wants
        self._limits = limits
        self._again: dict[str, None] = {}  # devices, in the order in which they asked
        self._unready: set[tuple[str, ...]] = set()  # of this step; see `_likeness`
        self._complained: set[tuple[str, int]] = set()
        self._complete: dict[tuple[str, int], datetime] = {}  # when we saw that all is there

    def again(self, devices: Iterable[str]) -> None:
        """Publish the newest assignment of these devices once more."""
        self._again.update(dict.fromkeys(devices))

    def step(self) -> int:
        """Renew, sign and publish what is due; return how many messages went out.

        Raises:
            UnsentError: the broker is away; what was not acknowledged stays due.
        """
        self._renew()
        self._unready.clear()
        unmet = self._asked()
        try:
            ready, infos = [], []
            for key in self._due(unmet):
                if (found := self._prepare(*key)) is not None:
                    # At once: a burst at the end of each batch would have as many crowds of
                    # devices ask for the same blocks.
                    infos.append(self._link.send(found.topic, found.payload, qos=1, retain=True))
                    ready.append(found)
            self._link.wait(infos)
            if ready:
                self._written(ready)
            unmet = []
            return len(ready)
        finally:
            self.again(unmet)

    def _asked(self) -> list[str]:
        """Take out devices that asked: who asks from now on may have missed what we send."""
        asked = list(islice(self._again, BATCH))
        for device in asked:
            self._again.pop(device)
        return asked

    def _due(self, asked: list[str]) -> list[tuple[str, int]]:
        """Return (device, counter) of what to publish: new ones, asked ones, then stale ones."""
        newest = (
            select(Assignment.device_id, Assignment.counter)
            .join(TrustSet, TrustSet.tenant == Assignment.tenant)
            .join(Device, Device.id == Assignment.device_id)
            .where(Assignment.superseded_at.is_(None), Device.revoked_at.is_(None))
        )
        fresh = newest.where(Assignment.published_at.is_(None)).order_by(Assignment.created_at)
        stale = newest.where(
            Assignment.published_at.is_not(None),
            Assignment.trust_generation < TrustSet.generation,
        )
        with self._server.db.read() as session:
            found = [(row[0], row[1]) for row in session.execute(fresh.limit(BATCH))]
            if asked:
                again = session.execute(newest.where(Assignment.device_id.in_(asked)))
                found += [(row[0], row[1]) for row in again]
            if len(found) < BATCH:
                found += [(row[0], row[1]) for row in session.execute(stale.limit(BATCH))]
        return list(dict.fromkeys(found))

    def _prepare(self, device_id: str, counter: int) -> Ready | None:
        """Sign the assignment if need be, and compose its message; None: not yet, or not at all."""
        now = utcnow()
        try:
            with self._server.db.write() as session:
                assignment = session.get_one(Assignment, (device_id, counter), with_for_update=True)
                if assignment.superseded_at is not None:
                    self._complete.pop((device_id, counter), None)
                    return None
                device = session.get_one(Device, device_id)
                likeness = _likeness(device, assignment)
                if assignment.published_at is None and likeness in self._unready:
                    return None
                plan = sources.plan(session, device, assignment, ask=True)
                if assignment.published_at is None and self._must_wait(
                    session, assignment, plan, now
                ):
                    if plan.pending:
                        self._unready.add(likeness)
                    return None
                signer = self._server.keystore(assignment.tenant).signer("director")
                director.sign(assignment, signer, now)
                return self._compose(session, assignment, plan, now)
        except (BundleError, FleetError) as error:
            if (device_id, counter) not in self._complained:
                self._complained.add((device_id, counter))
                logger.error("assignment %d of %s: %s", counter, device_id, error)
            self.again([device_id])
            return None

    def _must_wait(
        self, session: Session, assignment: Assignment, plan: sources.Plan, now: datetime
    ) -> bool:
        """Return whether patches are still being made, or the broker doesn't know the rights yet.

        What counts is when we *saw* that all is there: a row may bear a time from long before
        its transaction was committed, and the broker may have looked in between.
        """
        if plan.pending and now - assignment.created_at < PATCH_WAIT:
            return True
        key = (assignment.device_id, assignment.counter)
        complete_at = self._complete.setdefault(key, now)
        if now - complete_at >= GRANT_WAIT:
            return False
        applied = policy_applied_at(session, now)
        return applied is not None and applied <= complete_at

    def _compose(
        self, session: Session, assignment: Assignment, plan: sources.Plan, now: datetime
    ) -> Ready:
        trust = session.get_one(TrustSet, assignment.tenant)
        message = Desired(
            at=rfc3339(now),
            director=assignment.document or b"",
            metadata=BlobRef(sha256=trust.sha256, bytes=trust.bytes),
            sources=plan.sources,
            block_bytes=self._limits.block_bytes,
            http=self._server.settings.public_devices_url,
            rollouts=dict(assignment.rollouts),
        )
        topic = Topics(assignment.tenant, assignment.device_id).down("desired")
        payload = message.to_bytes()
        self._limits.check(topic, payload)
        self._wants.expect(assignment.tenant, plan.digests)
        return Ready(
            device=assignment.device_id,
            counter=assignment.counter,
            generation=trust.generation,
            topic=topic,
            payload=payload,
        )

    def _written(self, ready: list[Ready]) -> None:
        now = utcnow()
        with self._server.db.write() as session:
            for one in ready:
                self._complete.pop((one.device, one.counter), None)
                assignment = session.get_one(Assignment, (one.device, one.counter))
                assignment.published_at = assignment.published_at or now
                assignment.trust_generation = one.generation

    def _renew(self) -> None:
        """Replace documents that grow old by ones with a new counter."""
        now = utcnow()
        with self._server.db.read() as session:
            old = session.scalars(
                select(Assignment.device_id)
                .join(Device, Device.id == Assignment.device_id)
                .where(
                    Assignment.superseded_at.is_(None),
                    Assignment.expires_at < now + director.RENEW_BEFORE,
                    Device.revoked_at.is_(None),
                )
                .limit(BATCH)
            ).all()
        for device_id in old:
            with self._server.db.write() as session:
                newest = assign.latest(session, device_id)
                if newest is not None and director.is_due(newest, now):
                    assign.renew(session, device_id, now, "the director's signature grew old")


def _likeness(device: Device, assignment: Assignment) -> tuple[str, ...]:
    """Return what devices have in common that wait for the same patches."""
    models = device.models.items()
    active = (f"{name} {(model.get('active') or {}).get('manifest')}" for name, model in models)
    targets = (target["sha256"] for target in assignment.targets)
    return assignment.tenant, *sorted(targets), *sorted(active)


def policy_applied_at(session: Session, now: datetime) -> datetime | None:
    """Return how recent the rights are that our broker enforces; None: it is not our broker."""
    rows = session.scalars(
        select(Part).where(Part.name == "broker", Part.beat_at > now - FRESH_BROKER)
    ).all()
    applied = [row.detail.get("policy_at") for row in rows]
    known = [datetime.fromisoformat(text) for text in applied if isinstance(text, str)]
    return max(known) if known else None
