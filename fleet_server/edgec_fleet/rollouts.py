"""Rollouts as people see them: found, listed, described. Moving them is `rollout.control`'s."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from edgec_fleet.db.columns import attributes
from edgec_fleet.db.schema import Actor, DeviceUpdate, Rollout, RolloutGroup, RolloutLog
from edgec_fleet.errors import UnknownError

_UPDATES = 1000  # devices described at once, those that need attention first
_LOG = 500
_ATTENTION = ("failed", "rolled_back", "rejected", "timed_out", "in_progress", "assigned")


def list_rollouts(
    session: Session,
    tenant: str,
    *,
    model: str | None = None,
    state: str | None = None,
    limit: int = 200,
) -> Sequence[Rollout]:
    """Return the tenant's rollouts, the newest first."""
    statement = select(Rollout).where(Rollout.tenant == tenant)
    if model is not None:
        statement = statement.where(Rollout.model == model)
    if state is not None:
        statement = statement.where(Rollout.state == state)
    newest = statement.order_by(Rollout.created_at.desc(), Rollout.id).limit(limit)
    return session.scalars(newest).all()


def get_rollout(session: Session, tenant: str, rollout_id: str) -> Rollout:
    """Return the tenant's rollout. Raises UnknownError."""
    rollout = session.get(Rollout, rollout_id)
    if rollout is None or rollout.tenant != tenant:
        raise UnknownError(f"there is no rollout {rollout_id}")
    return rollout


def describe(session: Session, rollout: Rollout) -> dict[str, Any]:
    """Return all that the API says about a rollout, as attributes of its schema."""
    counts = counts_by_group(session, rollout)
    groups = session.scalars(
        select(RolloutGroup)
        .where(RolloutGroup.rollout_id == rollout.id)
        .order_by(RolloutGroup.position)
    ).all()
    return {
        **attributes(rollout),
        "counts": dict(sum(counts.values(), Counter[str]())),
        "groups": [{**attributes(g), "counts": dict(counts.get(g.id, {}))} for g in groups],
        "updates": updates(session, rollout),
        "log": _log(session, rollout),
    }


def counts_by_group(session: Session, rollout: Rollout) -> dict[str, Counter[str]]:
    """Return {group id: {state: devices}}."""
    counts: dict[str, Counter[str]] = {}
    rows = session.execute(
        select(DeviceUpdate.group_id, DeviceUpdate.state, func.count())
        .where(DeviceUpdate.rollout_id == rollout.id)
        .group_by(DeviceUpdate.group_id, DeviceUpdate.state)
    )
    for group, state, count in rows:
        counts.setdefault(group, Counter())[state] = count
    return counts


def updates(session: Session, rollout: Rollout, limit: int = _UPDATES) -> Sequence[DeviceUpdate]:
    """Return the rollout's devices: those that need attention first, then by id."""
    order = {state: rank for rank, state in enumerate(_ATTENTION)}
    urgency = case(order, value=DeviceUpdate.state, else_=len(order))
    return session.scalars(
        select(DeviceUpdate)
        .where(DeviceUpdate.rollout_id == rollout.id)
        .order_by(urgency, DeviceUpdate.device_id)
        .limit(limit)
    ).all()


def _log(session: Session, rollout: Rollout) -> list[dict[str, Any]]:
    rows = session.execute(
        select(RolloutLog, Actor.name)
        .outerjoin(Actor, Actor.id == RolloutLog.actor_id)
        .where(RolloutLog.rollout_id == rollout.id)
        .order_by(RolloutLog.id.desc())
        .limit(_LOG)
    )
    return [{**attributes(entry), "actor": name} for entry, name in rows]
