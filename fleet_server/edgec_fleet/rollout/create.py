"""Starts a rollout: checks the order, deals the devices to groups, and writes it all down."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_fleet import audit
from edgec_fleet.db.schema import (
    Device,
    DeviceUpdate,
    Model,
    Release,
    Rollout,
    RolloutGroup,
    new_id,
    utcnow,
)
from edgec_fleet.errors import ConflictError, RefusedError, UnknownError
from edgec_fleet.rollout import ledger
from edgec_fleet.rollout.decide import OPEN
from edgec_fleet.rollout.spec import Candidate, GroupSpec, Spec, divide

ACTIVE = ("running", "paused")
_NAMED = 5


def create(session: Session, tenant: str, order: Any, by: audit.Actor) -> Rollout:
    """Start a rollout; the engine tells the first devices at its next tick.

    Args:
        session: a writing transaction.
        tenant: whose devices and release.
        order: what `Spec.from_json` reads.
        by: who asked for it.

    Raises:
        UnknownError: there is no such model or release.
        ConflictError: the release is not published, or a device is in another active rollout
            of the model.
        RefusedError: the order is malformed, a listed device does not exist, or a group before
            the last has no device.
    """
    spec = Spec.from_json(order)
    release = _release(session, tenant, spec)
    candidates = _candidates(session, tenant)
    _check_listed(spec, candidates)
    rollout_id = new_id()
    divided = divide(spec.groups, candidates, rollout_id)
    _check_divided(spec, divided)
    _check_free(session, tenant, spec.model, divided)
    row = _add_row(session, tenant, rollout_id, spec, release, by)
    for position, (group, devices) in enumerate(zip(spec.groups, divided, strict=True)):
        _add_group(session, row, position, group, devices)
    release.audience_at = None  # the fleet may have moved on since the release was published
    _record(session, row, spec, [len(devices) for devices in divided], by)
    return row


def _record(
    session: Session, row: Rollout, spec: Spec, sizes: Sequence[int], by: audit.Actor
) -> None:
    """Begin the rollout's log, and leave a line in the audit trail."""
    groups = ", ".join(
        f"{group.name}: {size}" for group, size in zip(spec.groups, sizes, strict=True)
    )
    row.reason = f"created by {by.name} for {sum(sizes)} devices ({groups})"
    log = ledger.Log(session, row, by.id)
    log.add("rollout", None, "running", row.reason, at=row.created_at)
    log.flush()
    audit.record(
        session,
        row.tenant,
        by,
        "rollout.create",
        "rollout",
        row.id,
        model=spec.model,
        version=spec.version,
        strategy=spec.strategy,
    )


def _add_row(
    session: Session,
    tenant: str,
    rollout_id: str,
    spec: Spec,
    release: Release,
    by: audit.Actor,
) -> Rollout:
    now = utcnow()
    row = Rollout(
        id=rollout_id,
        tenant=tenant,
        model=spec.model,
        release_id=release.id,
        version=spec.version,
        strategy=spec.strategy,
        spec=spec.to_json(),
        rate_per_minute=spec.rate_per_minute,
        state="running",
        reason="",
        since=now,
        created_at=now,
        created_by=by.id,
    )
    session.add(row)
    session.flush()
    return row


def _release(session: Session, tenant: str, spec: Spec) -> Release:
    """Return the published release, and keep other rollouts of the model waiting until commit."""
    model = session.scalar(
        select(Model).where(Model.tenant == tenant, Model.name == spec.model).with_for_update()
    )
    if model is None:
        raise UnknownError(f"there is no model {spec.model}")
    release = session.scalar(
        select(Release).where(
            Release.tenant == tenant, Release.model == spec.model, Release.version == spec.version
        )
    )
    if release is None:
        raise UnknownError(f"there is no release {spec.version} of {spec.model}")
    if release.state != "published":
        raise ConflictError(
            f"{spec.model} {spec.version} is {release.state}: only published releases roll out"
        )
    return release


def _candidates(session: Session, tenant: str) -> list[Candidate]:
    rows = session.execute(
        select(Device.id, Device.tags, Device.hello, Device.online).where(
            Device.tenant == tenant, Device.revoked_at.is_(None)
        )
    )
    return [Candidate(row.id, tags_of(row.hello, row.tags), row.online) for row in rows]


def tags_of(hello: dict[str, object] | None, tags: dict[str, str]) -> dict[str, str]:
    """Return the device's tags: what operators gave it goes over what it says itself."""
    said = (hello or {}).get("tags")
    return {**(said if isinstance(said, dict) else {}), **(tags or {})}


def _check_listed(spec: Spec, candidates: Sequence[Candidate]) -> None:
    known = {one.device for one in candidates}
    for group in spec.groups:
        unknown = [one for one in group.select.get("devices", ()) if one not in known]
        if unknown:
            raise RefusedError(
                f"group {group.name}: there is no device {', '.join(unknown[:_NAMED])}"
            )


def _check_divided(spec: Spec, divided: Sequence[Sequence[str]]) -> None:
    """Refuse an empty group in front of others: it would let them start without any evidence."""
    if not any(divided):
        return  # the first devices are still to come
    for group, devices in list(zip(spec.groups, divided, strict=True))[:-1]:
        if not devices and "percent" not in group.select:
            raise RefusedError(
                f"group {group.name} has no device: the groups after it would start unguarded"
            )


def _check_free(
    session: Session, tenant: str, model: str, divided: Sequence[Sequence[str]]
) -> None:
    """Refuse devices that another active rollout of the model has not finished with."""
    wanted = {device for devices in divided for device in devices}
    rows = session.execute(
        select(DeviceUpdate.device_id, Rollout.id, Rollout.version, Rollout.state)
        .join(Rollout, Rollout.id == DeviceUpdate.rollout_id)
        .where(
            Rollout.tenant == tenant,
            Rollout.model == model,
            Rollout.state.in_(ACTIVE),
            DeviceUpdate.state.in_(OPEN),
        )
    )
    busy = [row for row in rows if row.device_id in wanted]
    if busy:
        first, named = busy[0], ", ".join(sorted(row.device_id for row in busy)[:_NAMED])
        raise ConflictError(
            f"{len(busy)} devices are in the {first.state} rollout of {model} {first.version} "
            f"({named}): finish or abort it first",
            detail={"rollout": first.id, "devices": len(busy)},
        )


def _add_group(
    session: Session, row: Rollout, position: int, group: GroupSpec, devices: Sequence[str]
) -> None:
    gates = group.gates
    group_row = RolloutGroup(
        id=new_id(),
        tenant=row.tenant,
        rollout_id=row.id,
        position=position,
        name=group.name,
        select=dict(group.select),
        success_threshold=gates.success_threshold,
        error_threshold=gates.error_threshold,
        minimum_executed=gates.minimum_executed,
        soak_s=gates.soak_s,
        device_timeout_s=gates.device_timeout_s,
        retries=gates.retries,
        state="waiting",
        since=row.created_at,
    )
    session.add(group_row)
    session.flush()
    for place, device in enumerate(devices):
        add_device(session, row, group_row, device, place)
    session.flush()


def add_device(
    session: Session, row: Rollout, group: RolloutGroup, device: str, place: int
) -> None:
    """Queue `device` in a group, at `place`."""
    session.add(
        DeviceUpdate(
            id=ledger.update_id(group.position, place),
            tenant=row.tenant,
            rollout_id=row.id,
            group_id=group.id,
            device_id=device,
            state="queued",
        )
    )
