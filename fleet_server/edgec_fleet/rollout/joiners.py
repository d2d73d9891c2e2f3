"""Devices that come later: into the open group of the newest rollout of a model."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import exists, func, or_, select
from sqlalchemy.orm import Session

from edgec_fleet.db import Database
from edgec_fleet.db.schema import Device, DeviceUpdate, Rollout, RolloutGroup, utcnow
from edgec_fleet.rollout import ledger
from edgec_fleet.rollout.create import add_device, tags_of
from edgec_fleet.rollout.decide import OPEN
from edgec_fleet.rollout.spec import GroupSpec


def adopt_all(db: Database, now: datetime | None = None) -> int:
    """Queue devices that came later in the open group of their newest rollout; return how many.

    A group is open if it takes the rest of the fleet or filters by tags. A completed rollout
    runs again for them, under the same gates and the same rate.
    """
    with db.read() as session:
        ids = session.scalars(
            select(Rollout.id).where(Rollout.state != "aborted").order_by(Rollout.created_at.desc())
        ).all()
        wanted = [one for one in ids if _joiners(session, session.get_one(Rollout, one))]
    return sum(_adopt(db, rollout_id, now or utcnow()) for rollout_id in wanted)


def _adopt(db: Database, rollout_id: str, now: datetime) -> int:
    with db.write() as session:
        row = session.scalar(
            select(Rollout)
            .where(Rollout.id == rollout_id, Rollout.state != "aborted")
            .with_for_update(skip_locked=True)
        )
        joiners = _joiners(session, row) if row is not None else []
        if row is None or not joiners:
            return 0
        log = ledger.Log(session, row)
        names = ", ".join(device for _, device in joiners[:5])
        for place, (joined, device) in enumerate(joiners, _size(session, row)):
            add_device(session, row, joined, device, place)
            log.add(
                "device",
                None,
                "queued",
                f"came after the rollout began: joins group {joined.name}",
                group_id=joined.id,
                device_id=device,
                at=now,
            )
        if row.state == "completed":
            why = f"{len(joiners)} devices came later: {names}"
            ledger.set_state(log, "running", why, now)
            for group in {joined.id: joined for joined, _ in joiners}.values():
                ledger.set_group_state(log, group, "running", why, now)
        log.flush()
        return len(joiners)


def _joiners(session: Session, row: Rollout) -> list[tuple[RolloutGroup, str]]:
    """Return devices that belong to an open group of `row` and are in no newer rollout."""
    groups = _open_groups(session, row)
    if not groups:
        return []
    newer = select(Rollout.id).where(
        Rollout.tenant == row.tenant,
        Rollout.model == row.model,
        Rollout.state != "aborted",
        Rollout.created_at >= row.created_at,
    )
    active = select(Rollout.id).where(
        Rollout.tenant == row.tenant,
        Rollout.model == row.model,
        Rollout.state.in_(("running", "paused")),
    )
    taken = exists().where(
        DeviceUpdate.device_id == Device.id,
        or_(
            DeviceUpdate.rollout_id.in_(newer),
            DeviceUpdate.rollout_id.in_(active) & DeviceUpdate.state.in_(OPEN),
        ),
    )
    rows = session.execute(
        select(Device.id, Device.tags, Device.hello)
        .where(Device.tenant == row.tenant, Device.revoked_at.is_(None), ~taken)
        .order_by(Device.enrolled_at, Device.id)
    )
    found = []
    for device in rows:
        for group in groups:
            if _takes(group, device.hello, device.tags):
                found.append((group, device.id))
                break
    return found


def _open_groups(session: Session, row: Rollout) -> Sequence[RolloutGroup]:
    groups = session.scalars(
        select(RolloutGroup)
        .where(RolloutGroup.rollout_id == row.id)
        .order_by(RolloutGroup.position)
    ).all()
    return [group for group in groups if _spec(group).is_open]


def _takes(group: RolloutGroup, hello: Any, tags: Any) -> bool:
    return _spec(group).takes(tags_of(hello, tags))


def _spec(group: RolloutGroup) -> GroupSpec:
    return GroupSpec(group.name, group.select)


def _size(session: Session, row: Rollout) -> int:
    return session.scalar(select(func.count()).where(DeviceUpdate.rollout_id == row.id)) or 0
