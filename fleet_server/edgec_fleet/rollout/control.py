"""What people may do to a rollout: create, pause, resume, next, abort, retry or exclude a device.

Every function takes a writing session and leaves a line in the rollout's log and in the audit
trail. What follows from it is the engine's to decide, at its next tick.
"""

from collections.abc import Sequence

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
from edgec_fleet.rollout import assign, ledger
from edgec_fleet.rollout.decide import FAILURES, OPEN, TOLD
from edgec_fleet.rollout.spec import Candidate, GroupSpec, Spec, divide

ACTIVE = ("running", "paused")
_NAMED = 5


def create(session: Session, tenant: str, spec: Spec, by: audit.Actor) -> Rollout:
    """Start a rollout; the engine tells the first devices at its next tick.

    Raises:
        UnknownError: there is no such model or release.
        ConflictError: the release is not published, or a device is in another active rollout
            of the model.
        RefusedError: a listed device does not exist, or a group before the last has no device.
    """
    release = _release(session, tenant, spec)
    candidates = _candidates(session, tenant)
    _check_listed(spec, candidates)
    rollout_id = new_id()
    divided = divide(spec.groups, candidates, rollout_id)
    _check_divided(spec, divided)
    _check_free(session, tenant, spec.model, divided)
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
    for position, (group, devices) in enumerate(zip(spec.groups, divided, strict=True)):
        _add_group(session, row, position, group, devices)
    sizes = ", ".join(
        f"{group.name}: {len(ids)}" for group, ids in zip(spec.groups, divided, strict=True)
    )
    row.reason = f"created by {by.name} for {sum(map(len, divided))} devices ({sizes})"
    log = ledger.Log(session, row, by.id)
    log.add("rollout", None, "running", row.reason, at=now)
    log.flush()
    _audit(session, row, by, "create", version=spec.version, strategy=spec.strategy)
    return row


def get(session: Session, tenant: str, rollout_id: str, *, lock: bool = False) -> Rollout:
    """Return the tenant's rollout. Raises UnknownError."""
    query = select(Rollout).where(Rollout.id == rollout_id, Rollout.tenant == tenant)
    row = session.scalar(query.with_for_update() if lock else query)
    if row is None:
        raise UnknownError(f"there is no rollout {rollout_id}")
    return row


def pause(session: Session, row: Rollout, by: audit.Actor, reason: str = "") -> None:
    """Tell nobody further; devices that were told go on. Raises ConflictError."""
    _lock(session, row)
    _expect(row, ("running",), "pause")
    why = f"paused by {by.name}" + (f": {reason}" if reason else "")
    log = ledger.Log(session, row, by.id)
    ledger.set_state(log, "paused", why, utcnow())
    log.flush()
    _audit(session, row, by, "pause", reason=reason)


def resume(session: Session, row: Rollout, by: audit.Actor) -> None:
    """Go on, and accept the failures so far: they no longer count. Raises ConflictError."""
    _lock(session, row)
    _expect(row, ("paused",), "resume")
    log, now = ledger.Log(session, row, by.id), utcnow()
    ledger.set_state(log, "running", f"resumed by {by.name}, who accepts the failures so far", now)
    for group in _groups(session, row):
        if group.state == "failed":
            ledger.set_group_state(log, group, "running", f"resumed by {by.name}", now)
    log.flush()
    _audit(session, row, by, "resume")


def next_group(session: Session, row: Rollout, by: audit.Actor) -> None:
    """Let the next group start although the one before has not met its gates.

    Raises:
        ConflictError: the rollout has ended, or no group waits.
    """
    _lock(session, row)
    _expect(row, ACTIVE, "go on with the next group of")
    groups = _groups(session, row)
    if not any(group.state == "waiting" for group in groups):
        raise ConflictError("no group of this rollout waits")
    log, now = ledger.Log(session, row, by.id), utcnow()
    why = f"{by.name} asked for the next group"
    if row.state == "paused":
        ledger.set_state(log, "running", f"{why} and accepts the failures so far", now)
    for group in groups:
        if group.state == "waiting":
            ledger.set_group_state(log, group, "running", why, now)
            break
        if group.state != "succeeded":
            ledger.set_group_state(log, group, "succeeded", why, now)
    log.flush()
    _audit(session, row, by, "next")


def abort(
    session: Session, row: Rollout, by: audit.Actor, *, roll_back: bool = False, reason: str = ""
) -> None:
    """End the rollout: queued devices are never told; with `roll_back` the others go back.

    A device that runs the new release accepts an older one only if the release key allows it,
    digest by digest; the log says for each device what it was told.

    Raises:
        ConflictError: the rollout has been aborted before, or ended and nothing can go back.
    """
    _lock(session, row)
    _expect(row, (*ACTIVE, "completed") if roll_back else ACTIVE, "abort")
    log, now = ledger.Log(session, row, by.id), utcnow()
    why = f"aborted by {by.name}" + (f": {reason}" if reason else "")
    for update in _updates(session, row, OPEN | FAILURES | {"committed", "timed_out"}):
        if update.state == "queued":
            _move(log, update, "cancelled", why)
        elif roll_back:
            _tell_back(session, log, row, update, by)
    for group in _groups(session, row):
        if group.state in ("waiting", "running", "failed"):
            ledger.set_group_state(log, group, "aborted", why, now)
    ledger.set_state(log, "aborted", why + (", devices go back" if roll_back else ""), now)
    log.flush()
    _audit(session, row, by, "abort", roll_back=roll_back, reason=reason)


def retry_device(session: Session, row: Rollout, device_id: str, by: audit.Actor) -> None:
    """Queue a device again that did not commit. Raises ConflictError, UnknownError."""
    _lock(session, row)
    _expect(row, ACTIVE, "retry a device of")
    update = _update(session, row, device_id)
    if update.state not in FAILURES | {"timed_out"}:
        raise ConflictError(f"{device_id} is {update.state}: there is nothing to retry")
    log = ledger.Log(session, row, by.id)
    _move(log, update, "queued", f"{by.name} asked to try again")
    update.attempts = 0
    log.flush()
    _audit(session, row, by, "retry", device=device_id)


def exclude_device(session: Session, row: Rollout, device_id: str, by: audit.Actor) -> None:
    """Take a device out of the rollout's count. Raises ConflictError, UnknownError."""
    _lock(session, row)
    _expect(row, ACTIVE, "exclude a device of")
    update = _update(session, row, device_id)
    if update.state in ("committed", "cancelled"):
        raise ConflictError(f"{device_id} is {update.state}: there is nothing to exclude")
    log, told = ledger.Log(session, row, by.id), update.state in TOLD | {"timed_out"}
    _move(log, update, "cancelled", f"excluded by {by.name}")
    if told:
        tell_what_it_runs(session, row, device_id, f"excluded by {by.name}")
    log.flush()
    _audit(session, row, by, "exclude", device=device_id)


def tell_what_it_runs(session: Session, row: Rollout, device_id: str, why: str) -> None:
    """Make the device's desired state honest again: what it really runs, not what it refused."""
    newest = assign.latest(session, device_id)
    if newest is None or newest.rollouts.get(row.model) != row.id:
        return
    device = session.get_one(Device, device_id)
    variant = assign.running_variant(session, device, row.model)
    assign.tell(session, device_id, row.model, variant, None, utcnow(), why)


def _tell_back(
    session: Session, log: ledger.Log, row: Rollout, update: DeviceUpdate, by: audit.Actor
) -> None:
    device = session.get_one(Device, update.device_id)
    newest = assign.latest(session, device.id)
    if newest is None or newest.rollouts.get(row.model) != row.id or device.revoked_at is not None:
        return
    running = assign.running_variant(session, device, row.model)
    if running is not None and running.id == update.variant_id:
        back = assign.previous_variant(session, device, row.model)
    else:
        back = running
    before = back.target_path.split("/")[1] if back else "nothing"
    why = f"aborted by {by.name}: told to go back to {before}"
    assign.tell(session, device.id, row.model, back, row.id, utcnow(), why)
    log.add(
        "device",
        update.state,
        update.state,
        why,
        group_id=update.group_id,
        device_id=device.id,
        evidence={"manifest": back.manifest_sha256 if back else None},
    )


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


def _lock(session: Session, row: Rollout) -> None:
    session.refresh(row, with_for_update=True)


def _expect(row: Rollout, states: Sequence[str], action: str) -> None:
    if row.state not in states:
        raise ConflictError(f"cannot {action} a rollout that is {row.state}")


def _groups(session: Session, row: Rollout) -> Sequence[RolloutGroup]:
    return session.scalars(
        select(RolloutGroup)
        .where(RolloutGroup.rollout_id == row.id)
        .order_by(RolloutGroup.position)
    ).all()


def _updates(session: Session, row: Rollout, states: frozenset[str]) -> Sequence[DeviceUpdate]:
    return session.scalars(
        select(DeviceUpdate)
        .where(DeviceUpdate.rollout_id == row.id, DeviceUpdate.state.in_(states))
        .order_by(DeviceUpdate.id)
        .with_for_update()
    ).all()


def _update(session: Session, row: Rollout, device_id: str) -> DeviceUpdate:
    update = session.scalar(
        select(DeviceUpdate)
        .where(DeviceUpdate.rollout_id == row.id, DeviceUpdate.device_id == device_id)
        .with_for_update()
    )
    if update is None:
        raise UnknownError(f"device {device_id} is not in this rollout")
    return update


def _move(log: ledger.Log, update: DeviceUpdate, state: str, why: str) -> None:
    log.add(
        "device", update.state, state, why, group_id=update.group_id, device_id=update.device_id
    )
    update.state, update.reason, update.since = state, why, utcnow()


def _audit(session: Session, row: Rollout, by: audit.Actor, what: str, **detail: object) -> None:
    audit.record(
        session, row.tenant, by, f"rollout.{what}", "rollout", row.id, model=row.model, **detail
    )
