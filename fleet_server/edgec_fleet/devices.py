"""Devices: listed page by page, filtered in the database, with their timelines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from edgec_fleet import audit
from edgec_fleet.db.schema import Device, DeviceEvent
from edgec_fleet.enrolment import check_tags


@dataclass(frozen=True, slots=True)
class Page:
    """Some devices by id, how many match in all, and the id to go on after (or None)."""

    devices: Sequence[Device]
    total: int
    next: str | None


def list_devices(
    session: Session,
    tenant: str,
    *,
    part_of_id: str | None = None,
    online: bool | None = None,
    tags: Mapping[str, str] | None = None,
    after: str | None = None,
    limit: int = 100,
) -> Page:
    """Return one page of the tenant's devices that match every given condition."""
    matching = select(Device).where(Device.tenant == tenant)
    if part_of_id:
        matching = matching.where(Device.id.contains(part_of_id, autoescape=True))
    if online is not None:
        matching = matching.where(Device.online.is_(online))
    for name, value in (tags or {}).items():
        matching = matching.where(Device.tags[name].as_string() == value)
    total = session.scalar(select(func.count()).select_from(matching.subquery())) or 0
    found = session.scalars(_from(matching, after).order_by(Device.id).limit(limit + 1)).all()
    more = len(found) > limit
    return Page(found[:limit], total, found[limit - 1].id if more else None)


def _from(statement: Select[Device], after: str | None) -> Select[Device]:
    return statement if after is None else statement.where(Device.id > after)


def timeline(session: Session, device: Device, limit: int = 100) -> Sequence[DeviceEvent]:
    """Return the device's events, the newest first."""
    return session.scalars(
        select(DeviceEvent)
        .where(DeviceEvent.device_id == device.id)
        .order_by(DeviceEvent.id.desc())
        .limit(limit)
    ).all()


def set_tags(session: Session, device: Device, tags: Mapping[str, str], by: audit.Actor) -> None:
    """Replace the device's tags. Raises RefusedError."""
    before, device.tags = device.tags, check_tags(tags)
    audit.record(
        session,
        device.tenant,
        by,
        "device.tags",
        "device",
        device.id,
        before=before,
        after=device.tags,
    )
