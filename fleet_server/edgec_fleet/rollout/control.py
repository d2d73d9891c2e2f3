"""What people may do to a rollout: create, pause, resume, advance, abort, retry, exclude a device.

Every function takes a writing session and leaves a line in the rollout's log and in the audit
trail. What follows from it is the engine's to decide, at its next tick.
"""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_fleet import audit
from edgec_fleet.db.schema import Device, DeviceUpdate, Rollout, RolloutGroup, utcnow
from edgec_fleet.errors import ConflictError, UnknownError
from edgec_fleet.rollout import assign, ledger
from edgec_fleet.rollout.create import ACTIVE, create
from edgec_fleet.rollout.decide import FAILURES, OPEN, TOLD

__all__ = [
    "ACTIVE",
    "abort",
    "advance",
    "create",
    "exclude_device",
    "pause",
    "resume",
    "retry_device",
    "tell_what_it_runs",
]


def pause(session: Session, row: Rollout, by: audit.Actor, reason: str = "") -> None:
    """Tell nobody further; devices that were told go on. Raises ConflictError."""
    _lock(session, row)
    _expect(row, ("running",), "pause")
    why = f"paused by {by.name}" + _because(reason)
    log = ledger.Log(session, row, by.id)
    ledger.set_state(log, "paused", why, utcnow())
    log.flush()
    _audit(session, row, by, "pause", reason=reason)


def resume(session: Session, row: Rollout, by: audit.Actor, reason: str = "") -> None:
    """Go on, and accept the failures so far: they no longer count. Raises ConflictError."""
    _lock(session, row)
    _expect(row, ("paused",), "resume")
    log, now = ledger.Log(session, row, by.id), utcnow()
    why = f"resumed by {by.name}, who accepts the failures so far" + _because(reason)
    ledger.set_state(log, "running", why, now)
    for group in _groups(session, row):
        if group.state == "failed":
            ledger.set_group_state(log, group, "running", f"resumed by {by.name}", now)
    log.flush()
    _audit(session, row, by, "resume", reason=reason)


def advance(session: Session, row: Rollout, by: audit.Actor, reason: str = "") -> None:
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
    why = f"{by.name} asked for the next group" + _because(reason)
    if row.state == "paused":
        ledger.set_state(log, "running", f"{why} and accepts the failures so far", now)
    for group in groups:
        if group.state == "waiting":
            ledger.set_group_state(log, group, "running", why, now)
            break
        if group.state != "succeeded":
            ledger.set_group_state(log, group, "succeeded", why, now)
    log.flush()
    _audit(session, row, by, "next", reason=reason)


def abort(
    session: Session, row: Rollout, by: audit.Actor, reason: str = "", *, roll_back: bool = False
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
    why = f"aborted by {by.name}" + _because(reason)
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


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


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
