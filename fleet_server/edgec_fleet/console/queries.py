"""What the pages read: small frozen views over the tables, every query within one tenant."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.orm import Session, selectinload

from edgec_fleet.console.words import SILENT_AFTER
from edgec_fleet.db.schema import (
    Alert,
    AuditEntry,
    Device,
    DeviceEvent,
    DeviceUpdate,
    Model,
    Part,
    Release,
    Rollout,
    RolloutGroup,
    RolloutLog,
    Telemetry,
    Variant,
    utcnow,
)

PAGE = 50  # rows of a list
FEW = 20  # rows of a list that shares its page with others
ATTENTION = ("failed", "rejected", "rolled_back", "timed_out")
BEAT_STALE = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list, with where it stands in the whole."""

    rows: Sequence[Any]
    total: int
    number: int  # from 1
    size: int = PAGE

    @property
    def last(self) -> int:
        """The number of the last page, at least 1."""
        return max(1, -(-self.total // self.size))


@dataclass(frozen=True, slots=True)
class Life:
    """How many devices are how well reachable."""

    online: int
    offline: int
    silent: int
    revoked: int

    @property
    def total(self) -> int:
        """Every enrolled device."""
        return self.online + self.offline + self.silent + self.revoked


@dataclass(frozen=True, slots=True)
class Running:
    """How many devices of a profile run a version of a model."""

    model: str
    version: str
    profile: str
    devices: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A group of a rollout with its devices counted by state."""

    group: RolloutGroup
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """Every device of the group."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Measured:
    """What devices measured of one version while it served: telemetry windows added up."""

    requests: int = 0
    failed: int = 0
    p50_ms: float | None = None
    p95_ms: float | None = None


def page(session: Session, query: Select[Any], number: int, size: int = PAGE) -> Page:
    """Return page `number` (from 1) of an ordered query of single rows."""
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    number = min(max(1, number), Page((), total, 1, size).last)
    rows = session.scalars(query.limit(size).offset((number - 1) * size)).all()
    return Page(rows, total, number, size)


def life(session: Session, tenant: str) -> Life:
    """Count the tenant's devices by how well they are reachable."""
    counts = {
        state: session.scalar(
            select(func.count())
            .select_from(Device)
            .where(Device.tenant == tenant, reachable(state))
        )
        or 0
        for state in ("online", "offline", "silent", "revoked")
    }
    return Life(**counts)


def reachable(state: str) -> ColumnElement[bool]:
    """Return the condition for devices that are online, offline, silent (too long) or revoked."""
    since = utcnow() - SILENT_AFTER
    present = Device.revoked_at.is_(None)
    heard = and_(Device.last_contact_at.is_not(None), Device.last_contact_at >= since)
    match state:
        case "online":
            return and_(present, Device.online.is_(True))
        case "offline":
            return and_(present, Device.online.is_(False), heard)
        case "silent":
            unheard = or_(Device.last_contact_at.is_(None), Device.last_contact_at < since)
            return and_(present, Device.online.is_(False), unheard)
        case _:
            return Device.revoked_at.is_not(None)


def state_of(device: Device) -> str:
    """Return how well `device` is reachable, as `reachable` names it."""
    if device.revoked_at is not None:
        return "revoked"
    if device.online:
        return "online"
    heard = device.last_contact_at
    return "silent" if heard is None or utcnow() - heard > SILENT_AFTER else "offline"


def accepting(session: Session, tenant: str, profiles: set[str]) -> int:
    """Count the tenant's devices that accept at least one of `profiles`."""
    reported = session.scalars(
        select(Device.profiles).where(Device.tenant == tenant, Device.revoked_at.is_(None))
    )
    return sum(1 for accepted in reported if profiles & set(accepted))


def devices(session: Session, tenant: str, state: str, text: str, number: int) -> Page:
    """Return a page of devices, filtered by reachability and by a part of the id."""
    query = select(Device).where(Device.tenant == tenant)
    if state:
        query = query.where(reachable(state))
    if text:
        query = query.where(Device.id.contains(text, autoescape=True))
    return page(session, query.order_by(Device.id), number)


def running(session: Session, tenant: str) -> list[Running]:
    """Return what the tenant's devices reported as active, most devices first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    reported = session.execute(
        select(Device.models, Device.profiles).where(
            Device.tenant == tenant, Device.revoked_at.is_(None)
        )
    )
    for models, profiles in reported:
        for model, state in models.items():
            active = state.get("active")
            if active:
                counts[model, active["version"], (profiles or ["unknown"])[0]] += 1
    ordered = sorted(counts.items(), key=lambda item: (item[0][0], -item[1], item[0]))
    return [Running(*key, devices=count) for key, count in ordered]


def progress(session: Session, rollout: Rollout) -> list[Progress]:
    """Return the rollout's groups, in order, with their devices counted by state."""
    found = {group.id: Progress(group) for group in rollout.groups}
    counted = session.execute(
        select(DeviceUpdate.group_id, DeviceUpdate.state, DeviceUpdate.phase, func.count())
        .where(DeviceUpdate.rollout_id == rollout.id)
        .group_by(DeviceUpdate.group_id, DeviceUpdate.state, DeviceUpdate.phase)
    )
    for group_id, state, phase, count in counted:
        shown = "probation" if state == "in_progress" and phase == "probation" else state
        found[group_id].counts[shown] += count
    return list(found.values())


def rollouts(session: Session, tenant: str, state: str, number: int) -> Page:
    """Return a page of rollouts, newest first."""
    query = select(Rollout).where(Rollout.tenant == tenant).options(selectinload(Rollout.groups))
    if state:
        query = query.where(Rollout.state == state)
    return page(session, query.order_by(Rollout.created_at.desc(), Rollout.id), number)


def rollout(session: Session, tenant: str, identity: str) -> Rollout | None:
    """Return the tenant's rollout of this id, with its groups."""
    return session.scalar(
        select(Rollout)
        .where(Rollout.tenant == tenant, Rollout.id == identity)
        .options(selectinload(Rollout.groups))
    )


def updates(session: Session, rollout_id: str, number: int) -> Page:
    """Return a page of a rollout's devices: those that need attention first."""
    query = (
        select(DeviceUpdate)
        .where(DeviceUpdate.rollout_id == rollout_id)
        .order_by(DeviceUpdate.state.in_(ATTENTION).desc(), DeviceUpdate.since.desc())
        .order_by(DeviceUpdate.device_id)
    )
    return page(session, query, number, FEW)


def log(session: Session, rollout_id: str, limit: int = 200) -> Sequence[RolloutLog]:
    """Return why things changed in a rollout, newest first."""
    return session.scalars(
        select(RolloutLog)
        .where(RolloutLog.rollout_id == rollout_id)
        .order_by(RolloutLog.id.desc())
        .limit(limit)
    ).all()


def shipped(session: Session, rollout_id: str) -> tuple[int, int]:
    """Return (bytes transferred, bytes that full files would have taken) of a rollout."""
    row = session.execute(
        select(
            func.sum(DeviceUpdate.transferred_bytes),
            func.sum(DeviceUpdate.full_bytes),
        ).where(
            DeviceUpdate.rollout_id == rollout_id,
            DeviceUpdate.transferred_bytes.is_not(None),
            DeviceUpdate.full_bytes.is_not(None),
        )
    ).one()
    return int(row[0] or 0), int(row[1] or 0)


def measured(session: Session, tenant: str, manifests: Iterable[str]) -> Measured:
    """Add up what devices measured of `manifests`; latencies are means weighted by requests."""
    windows = session.execute(
        select(Telemetry.requests, Telemetry.failed, Telemetry.latency_ms)
        .where(
            Telemetry.tenant == tenant,
            Telemetry.manifest_sha256.in_(list(manifests)),
            Telemetry.requests > 0,
        )
        .order_by(Telemetry.window_start.desc())
        .limit(5000)
    ).all()
    requests = sum(row.requests for row in windows)
    return Measured(
        requests=requests,
        failed=sum(row.failed for row in windows),
        p50_ms=_weighted([(row.latency_ms.get("p50"), row.requests) for row in windows]),
        p95_ms=_weighted([(row.latency_ms.get("p95"), row.requests) for row in windows]),
    )


def _weighted(pairs: list[tuple[float | None, int]]) -> float | None:
    known = [(value, weight) for value, weight in pairs if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def previous_release(session: Session, release: Release) -> Release | None:
    """Return the published release of the model just below `release`."""
    return session.scalar(
        select(Release)
        .where(
            Release.tenant == release.tenant,
            Release.model == release.model,
            Release.number < release.number,
            Release.published_at.is_not(None),
        )
        .order_by(Release.number.desc())
        .limit(1)
    )


def models(session: Session, tenant: str) -> list[tuple[Model, list[Release]]]:
    """Return every model line with its releases, newest first."""
    lines = session.scalars(select(Model).where(Model.tenant == tenant).order_by(Model.name)).all()
    found = session.scalars(
        select(Release)
        .where(Release.tenant == tenant)
        .options(selectinload(Release.variants).selectinload(Variant.files))
        .order_by(Release.number.desc())
    ).all()
    return [(line, [r for r in found if r.model == line.name]) for line in lines]


def release(session: Session, tenant: str, model: str, version: str) -> Release | None:
    """Return one release with its variants and their files."""
    return session.scalar(
        select(Release)
        .where(Release.tenant == tenant, Release.model == model, Release.version == version)
        .options(selectinload(Release.variants).selectinload(Variant.files))
    )


def releases_of_manifests(session: Session, tenant: str, digests: Iterable[str]) -> dict[str, str]:
    """Return {manifest digest: "model version"} for those of `digests` that are known."""
    rows = session.execute(
        select(Variant.manifest_sha256, Release.model, Release.version)
        .join(Release, Release.id == Variant.release_id)
        .where(Variant.tenant == tenant, Variant.manifest_sha256.in_(list(digests)))
    )
    return {row.manifest_sha256: f"{row.model} {row.version}" for row in rows}


def timeline(session: Session, device_id: str, limit: int = 100) -> Sequence[DeviceEvent]:
    """Return what a device reported and what was done to it, newest first."""
    return session.scalars(
        select(DeviceEvent)
        .where(DeviceEvent.device_id == device_id)
        .order_by(DeviceEvent.id.desc())
        .limit(limit)
    ).all()


def latest_telemetry(session: Session, device_id: str) -> dict[str, Telemetry]:
    """Return the newest telemetry window of each model on a device."""
    newest = (
        select(func.max(Telemetry.id))
        .where(Telemetry.device_id == device_id)
        .group_by(Telemetry.model)
    )
    return {
        row.model: row for row in session.scalars(select(Telemetry).where(Telemetry.id.in_(newest)))
    }


def alerts(session: Session, tenant: str, *, closed: bool, limit: int = 100) -> Sequence[Alert]:
    """Return open (or closed) alerts, newest first."""
    state = Alert.closed_at.is_not(None) if closed else Alert.closed_at.is_(None)
    return session.scalars(
        select(Alert)
        .where(Alert.tenant == tenant, state)
        .order_by(Alert.opened_at.desc())
        .limit(limit)
    ).all()


def failures(session: Session, tenant: str, limit: int = 5) -> list[tuple[str, int]]:
    """Return the commonest reasons for which devices refused or failed in the last day."""
    since = utcnow() - timedelta(days=1)
    count = func.count()
    rows = session.execute(
        select(DeviceUpdate.reason, count)
        .where(
            DeviceUpdate.tenant == tenant,
            DeviceUpdate.state.in_(("failed", "rejected", "rolled_back")),
            DeviceUpdate.since >= since,
            DeviceUpdate.reason.is_not(None),
        )
        .group_by(DeviceUpdate.reason)
        .order_by(func.count().desc())
        .limit(limit)
    )
    return [(str(reason), count) for reason, count in rows]


def audit_page(session: Session, tenant: str, number: int) -> Page:
    """Return a page of the audit trail, newest first."""
    query = select(AuditEntry).where(AuditEntry.tenant == tenant).order_by(AuditEntry.seq.desc())
    return page(session, query, number)


def parts(session: Session) -> list[tuple[Part, bool]]:
    """Return the server's running parts, each with whether its last beat is too old."""
    now = utcnow()
    rows = session.scalars(select(Part).order_by(Part.name, Part.instance)).all()
    return [(row, now - row.beat_at > BEAT_STALE) for row in rows]
