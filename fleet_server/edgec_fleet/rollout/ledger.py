"""A rollout in the database: read as the frozen data that `decide` takes, and its log.

Device updates of one rollout are told in the order of their ids, so `update_id` makes ids that
sort by group and place.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from edgec_fleet.db.schema import (
    Alert,
    Device,
    DeviceUpdate,
    Rollout,
    RolloutGroup,
    RolloutLog,
    new_id,
    utcnow,
)
from edgec_fleet.rollout import decide

SILENT_AFTER = timedelta(minutes=15)  # without a last will: the broker itself was away
_REASON_LIMIT = 2000


@dataclass(frozen=True, slots=True)
class Loaded:
    """A rollout as `decide` sees it, and the rows behind it."""

    row: Rollout
    groups: tuple[RolloutGroup, ...]
    view: decide.Rollout
    update_ids: dict[str, str]  # device -> id of its DeviceUpdate


def load(session: Session, row: Rollout) -> Loaded:
    """Read the groups and devices of `row`."""
    groups = tuple(
        session.scalars(
            select(RolloutGroup)
            .where(RolloutGroup.rollout_id == row.id)
            .order_by(RolloutGroup.position)
        )
    )
    targets: dict[str, list[decide.Target]] = {group.id: [] for group in groups}
    update_ids: dict[str, str] = {}
    for update in _updates(session, row.id):
        update_ids[update.device_id] = update.id
        targets[update.group_id].append(
            decide.Target(
                device=update.device_id,
                since=update.since,
                state=update.state,
                phase=update.phase,
                reason=update.reason,
                online=update.online and not _is_silent(update.last_contact_at),
                attempts=update.attempts,
            )
        )
    view = decide.Rollout(
        groups=tuple(
            decide.Group(group.name, gates_of(group), tuple(targets[group.id]), group.state)
            for group in groups
        ),
        state=row.state,
        rate_per_minute=row.rate_per_minute,
        told=_told(session, row),
        accepted_until=accepted_until(session, row.id),
    )
    return Loaded(row, groups, view, update_ids)


def gates_of(group: RolloutGroup) -> decide.Gates:
    """Return the gates of a group's row."""
    return decide.Gates(
        success_threshold=group.success_threshold,
        error_threshold=group.error_threshold,
        minimum_executed=group.minimum_executed,
        soak_s=group.soak_s,
        device_timeout_s=group.device_timeout_s,
        retries=group.retries,
    )


def accepted_until(session: Session, rollout_id: str) -> datetime | None:
    """Return when an operator last resumed the rollout: failures until then are accepted."""
    return session.scalar(
        select(func.max(RolloutLog.at)).where(
            RolloutLog.rollout_id == rollout_id,
            RolloutLog.subject == "rollout",
            RolloutLog.before == "paused",
            RolloutLog.after == "running",
        )
    )


def update_id(group_position: int, place: int) -> str:
    """Return an id for a device update: 32 hex digits that sort by group, then place."""
    return f"{group_position:04x}{place:08x}" + new_id()[12:]


@dataclass(slots=True)
class Log:
    """Collects transitions of one rollout, written together by `flush`."""

    session: Session
    rollout: Rollout
    actor_id: str | None = None
    _rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        subject: str,
        before: str | None,
        after: str,
        why: str,
        *,
        group_id: str | None = None,
        device_id: str | None = None,
        evidence: dict[str, Any] | None = None,
        at: datetime | None = None,
    ) -> None:
        """Note one transition."""
        self._rows.append(
            {
                "tenant": self.rollout.tenant,
                "rollout_id": self.rollout.id,
                "at": at or utcnow(),
                "actor_id": self.actor_id,
                "group_id": group_id,
                "device_id": device_id,
                "subject": subject,
                "before": before,
                "after": after,
                "why": why[:_REASON_LIMIT],
                "evidence": evidence or {},
            }
        )

    def flush(self) -> None:
        """Write what was noted."""
        if self._rows:
            self.session.execute(insert(RolloutLog), self._rows)
            self._rows = []


def set_state(
    log: Log, state: str, why: str, at: datetime, evidence: dict[str, Any] | None = None
) -> None:
    """Move the rollout to `state`, note why, and keep its alert in step: open while paused."""
    row = log.rollout
    log.add("rollout", row.state, state, why, evidence=evidence, at=at)
    row.state, row.reason, row.since = state, why[:_REASON_LIMIT], at
    row.finished_at = at if state in ("completed", "aborted") else None
    alert = log.session.scalar(
        select(Alert).where(
            Alert.tenant == row.tenant,
            Alert.kind == "rollout.paused",
            Alert.object_id == row.id,
            Alert.closed_at.is_(None),
        )
    )
    if alert is not None and state != "paused":
        alert.closed_at = at
    elif alert is None and state == "paused" and log.actor_id is None:
        log.session.add(
            Alert(
                tenant=row.tenant,
                kind="rollout.paused",
                severity="warning",
                object_kind="rollout",
                object_id=row.id,
                reason=why[:_REASON_LIMIT],
                detail={"model": row.model, "version": row.version, **(evidence or {})},
                opened_at=at,
            )
        )


def set_group_state(
    log: Log,
    group: RolloutGroup,
    state: str,
    why: str,
    at: datetime,
    evidence: dict[str, Any] | None = None,
) -> None:
    """Move a group to `state` and note why."""
    log.add("group", group.state, state, why, group_id=group.id, evidence=evidence, at=at)
    group.state, group.reason, group.since = state, why[:_REASON_LIMIT], at
    if state == "running":
        group.started_at = group.started_at or at
        group.finished_at = None
    else:
        group.finished_at = at


def _updates(session: Session, rollout_id: str) -> Any:
    return session.execute(
        select(
            DeviceUpdate.id,
            DeviceUpdate.group_id,
            DeviceUpdate.device_id,
            DeviceUpdate.state,
            DeviceUpdate.phase,
            DeviceUpdate.reason,
            DeviceUpdate.since,
            DeviceUpdate.attempts,
            Device.online,
            Device.last_contact_at,
        )
        .join(Device, Device.id == DeviceUpdate.device_id)
        .where(DeviceUpdate.rollout_id == rollout_id)
        .order_by(DeviceUpdate.id)
    )


def _is_silent(last_contact_at: datetime | None) -> bool:
    """Whether a device that nobody reported as gone has not been heard for long all the same."""
    return last_contact_at is not None and utcnow() - last_contact_at > SILENT_AFTER


def _told(session: Session, row: Rollout) -> tuple[datetime, ...]:
    if row.rate_per_minute is None:
        return ()
    start = utcnow() - timedelta(seconds=decide.rate_window_s(row.rate_per_minute))
    return tuple(
        session.scalars(
            select(RolloutLog.at)
            .where(
                RolloutLog.rollout_id == row.id,
                RolloutLog.subject == "device",
                RolloutLog.after == "assigned",
                RolloutLog.at > start,
            )
            .order_by(RolloutLog.id)
        )
    )
