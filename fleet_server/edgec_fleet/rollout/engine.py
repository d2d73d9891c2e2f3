"""Moves rollouts on: one tick of one rollout is one transaction.

Nothing is kept between ticks, so a killed engine loses nothing, and any number of engines may
run: a tick locks its rollout's row, and another engine passes a locked one over. Devices report
meanwhile; a step is written only while the device is still in the state that it was decided on.
"""

import logging
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, CursorResult, exists, or_, select, update
from sqlalchemy.orm import Session

from edgec_fleet.db import Database
from edgec_fleet.db.schema import (
    Assignment,
    Device,
    DeviceUpdate,
    Release,
    Rollout,
    RolloutGroup,
    Variant,
    utcnow,
)
from edgec_fleet.rollout import assign, ledger
from edgec_fleet.rollout.control import tell_what_it_runs
from edgec_fleet.rollout.decide import FAILURES, OPEN, TOLD, Step, decide

logger = logging.getLogger(__name__)

_LOOK_BACK = timedelta(minutes=10)  # at failures of a rollout that is no longer running


def tick_all(db: Database, now: datetime | None = None) -> int:
    """Tick every rollout that something may be due in; return how many steps were made."""
    found = select(Rollout.id).where(_may_move(now or utcnow())).order_by(Rollout.id)
    with db.read() as session:
        ids = session.scalars(found).all()
    return sum(tick(db, rollout_id, now) for rollout_id in ids)


def tick(db: Database, rollout_id: str, now: datetime | None = None) -> int:
    """Make every step that is due in one rollout; return how many.

    Args:
        db: the database.
        rollout_id: a rollout that another engine does not hold at this moment.
        now: the instant to decide for; the clock's if not given.
    """
    now = now or utcnow()
    with db.write() as session:
        row = session.scalar(
            select(Rollout).where(Rollout.id == rollout_id).with_for_update(skip_locked=True)
        )
        if row is None:
            return 0
        log = ledger.Log(session, row)
        before = _take_facts(session, row, log, now)
        loaded = ledger.load(session, row)
        steps = decide(loaded.view, now)
        for step in steps:
            _perform(session, loaded, log, step, now)
        log.flush()
        after = _tell_failed(session, row, now)
        return before + len(steps) + after


def _may_move(now: datetime) -> ColumnElement[bool]:
    moving = exists().where(
        DeviceUpdate.rollout_id == Rollout.id,
        or_(
            DeviceUpdate.state.in_(TOLD),
            DeviceUpdate.state.in_(FAILURES) & (DeviceUpdate.since > now - _LOOK_BACK),
        ),
    )
    return or_(Rollout.state == "running", moving)


# -- what became true since the last tick ----------------------------------------------------


def _take_facts(session: Session, row: Rollout, log: ledger.Log, now: datetime) -> int:
    steps = _cancel_revoked(session, row, log, now) + _recognise_running(session, row, log, now)
    release = session.get_one(Release, row.release_id)
    if row.state == "running" and release.state != "published":
        why = f"{row.model} {row.version} was withdrawn"
        if release.withdrawn_reason:
            why += f": {release.withdrawn_reason}"
        ledger.set_state(log, "paused", why, now)
        steps += 1
    log.flush()
    session.flush()
    return steps


def _cancel_revoked(session: Session, row: Rollout, log: ledger.Log, now: datetime) -> int:
    found = session.scalars(
        select(DeviceUpdate)
        .join(Device, Device.id == DeviceUpdate.device_id)
        .where(
            DeviceUpdate.rollout_id == row.id,
            DeviceUpdate.state.in_(OPEN | {"timed_out"}),
            Device.revoked_at.is_not(None),
        )
    ).all()
    return sum(
        _move(session, log, each, "cancelled", "the device was revoked", now) for each in found
    )


def _recognise_running(session: Session, row: Rollout, log: ledger.Log, now: datetime) -> int:
    """Commit devices that report to run the release, whose own word on the commit was lost.

    A device that runs it on probation has not committed: its phase says so.
    """
    told = session.execute(
        select(DeviceUpdate, Device, Variant.manifest_sha256)
        .join(Device, Device.id == DeviceUpdate.device_id)
        .join(Variant, Variant.id == DeviceUpdate.variant_id)
        .where(DeviceUpdate.rollout_id == row.id, DeviceUpdate.state.in_(TOLD | {"timed_out"}))
    ).all()
    steps = 0
    for each, device, manifest in told:
        phase = (device.models or {}).get(row.model, {}).get("phase")
        if assign.running(device, row.model) == manifest and phase in ("idle", "committed"):
            why = "the device reports that it runs this release"
            steps += _move(session, log, each, "committed", why, now)
    return steps


# -- what was decided ------------------------------------------------------------------------


def _perform(
    session: Session, loaded: ledger.Loaded, log: ledger.Log, step: Step, now: datetime
) -> None:
    if step.subject == "rollout":
        ledger.set_state(log, step.after, step.why, now, step.evidence)
        logger.info("rollout %s is %s: %s", loaded.row.id, step.after, step.why)
        return
    group = loaded.groups[step.group or 0]
    if step.subject == "group":
        ledger.set_group_state(log, group, step.after, step.why, now, step.evidence)
        return
    each = session.get_one(DeviceUpdate, loaded.update_ids[step.device or ""])
    if step.after == "assigned":
        _tell(session, loaded.row, log, each, step, now)
    else:
        _move(session, log, each, step.after, step.why, now, before=step.before)


def _tell(
    session: Session,
    row: Rollout,
    log: ledger.Log,
    each: DeviceUpdate,
    step: Step,
    now: datetime,
) -> None:
    """Assign the release to a device, or reject it here if it has nothing for the device."""
    device = assign.lock_device(session, each.device_id)
    variant, why = assign.variant_for(session, row.release_id, device.profiles or ())
    if variant is None:
        _move(session, log, each, "rejected", why, now, before=step.before)
        return
    why = f"{step.why}: {why}"
    if not _move(session, log, each, "assigned", why, now, before=step.before):
        return
    _supersede(session, row, each.device_id, now)
    newest = assign.tell(session, each.device_id, row.model, variant, row.id, now, why)
    each.variant_id, each.counter = variant.id, newest.counter
    each.assigned_at, each.finished_at, each.phase = now, None, None
    each.attempts += 1
    session.flush()


def _supersede(session: Session, row: Rollout, device_id: str, now: datetime) -> None:
    """Close what an earlier rollout of the model left open on the device."""
    others = session.execute(
        select(DeviceUpdate, Rollout)
        .join(Rollout, Rollout.id == DeviceUpdate.rollout_id)
        .where(
            DeviceUpdate.device_id == device_id,
            DeviceUpdate.rollout_id != row.id,
            DeviceUpdate.state.in_(OPEN | {"timed_out"}),
            Rollout.tenant == row.tenant,
            Rollout.model == row.model,
        )
    ).all()
    for other, rollout in others:
        log = ledger.Log(session, rollout)
        why = f"the rollout of {row.model} {row.version} took its place"
        _move(session, log, other, "cancelled", why, now)
        log.flush()


def _move(
    session: Session,
    log: ledger.Log,
    each: DeviceUpdate,
    state: str,
    why: str,
    now: datetime,
    before: str | None = None,
) -> bool:
    """Write one device's step, unless the device reported something else meanwhile."""
    before = before or each.state
    written = session.execute(
        update(DeviceUpdate)
        .where(DeviceUpdate.id == each.id, DeviceUpdate.state == before)
        .values(
            state=state,
            since=now,
            reason=why,
            finished_at=None if state in OPEN else now,
        )
        .execution_options(synchronize_session=False)
    )
    assert isinstance(written, CursorResult)  # noqa: S101 (an UPDATE gives no other)
    if written.rowcount == 0:
        return False
    session.refresh(each)
    log.add(
        "device",
        before,
        state,
        why,
        group_id=each.group_id,
        device_id=each.device_id,
        at=now,
    )
    return True


# -- desired state stays honest --------------------------------------------------------------


def _tell_failed(session: Session, row: Rollout, now: datetime) -> int:
    """Tell devices whose failure is final what they really run; return how many.

    Otherwise their desired state would go on naming what they refused or fell back from.
    """
    final = or_(
        DeviceUpdate.state.in_(FAILURES - {"failed"}),
        DeviceUpdate.attempts > RolloutGroup.retries,
    )
    failed = session.execute(
        select(DeviceUpdate.device_id, Assignment.rollouts)
        .join(RolloutGroup, RolloutGroup.id == DeviceUpdate.group_id)
        .join(Device, Device.id == DeviceUpdate.device_id)
        .join(Assignment, Assignment.device_id == DeviceUpdate.device_id)
        .where(
            DeviceUpdate.rollout_id == row.id,
            DeviceUpdate.state.in_(FAILURES),
            Device.revoked_at.is_(None),
            Assignment.superseded_at.is_(None),
            *([final] if row.state == "running" else []),
        )
    ).all()
    told = [device for device, rollouts in failed if rollouts.get(row.model) == row.id]
    for device_id in told:
        why = f"{row.model} {row.version} failed here: told what it really runs"
        tell_what_it_runs(session, row, device_id, why)
    return len(told)
