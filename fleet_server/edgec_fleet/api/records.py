"""What happened and how it stands: audit trail, health, metrics."""

from typing import Any

from apiflask import APIBlueprint
from flask import Response
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgec_fleet import __version__
from edgec_fleet.api import schemas
from edgec_fleet.api.guard import current_caller, requires, server
from edgec_fleet.db.schema import (
    Alert,
    AuditEntry,
    Device,
    DeviceUpdate,
    Part,
    Release,
    Rollout,
    TrustSet,
    utcnow,
)

blueprint = APIBlueprint("records", __name__, tag="Records")


@blueprint.get("/v1/audit")
@requires("admin")
@blueprint.input(schemas.AuditQuery, location="query")
@blueprint.output(schemas.AuditEntries)
def list_audit(query_data: dict[str, Any]) -> Any:
    """List the audit trail, the newest first."""
    statement = select(AuditEntry).where(AuditEntry.tenant == current_caller().tenant)
    if "before" in query_data:
        statement = statement.where(AuditEntry.seq < query_data["before"])
    for name in ("object_kind", "object_id"):
        if name in query_data:
            statement = statement.where(getattr(AuditEntry, name) == query_data[name])
    newest = statement.order_by(AuditEntry.seq.desc()).limit(query_data["limit"])
    with server().db.read() as session:
        return {"entries": session.scalars(newest).all()}


@blueprint.get("/v1/health")
@blueprint.output(schemas.Health)
def read_health() -> Any:
    """Tell whether the server answers and reaches its database. Needs no login."""
    with server().db.read() as session:
        parts = session.scalars(select(Part).order_by(Part.name, Part.instance)).all()
        return {"ok": True, "version": __version__, "parts": parts}


@blueprint.get("/metrics")
@requires("viewer")
def read_metrics() -> Response:
    """Return the tenant's figures in Prometheus' text format."""
    registry = CollectorRegistry()
    with server().db.read() as session:
        _measure(session, current_caller().tenant, registry)
    return Response(generate_latest(registry), mimetype="text/plain; version=0.0.4")


def _measure(session: Session, tenant: str, registry: CollectorRegistry) -> None:
    devices = Gauge("edgec_devices", "Enrolled devices", ["online"], registry=registry)
    for online in (True, False):
        count = session.scalar(
            select(func.count()).where(
                Device.tenant == tenant, Device.online.is_(online), Device.revoked_at.is_(None)
            )
        )
        devices.labels(str(online).lower()).set(count or 0)
    for name, text, column, owner in (
        ("edgec_releases", "Releases", Release.state, Release.tenant),
        ("edgec_rollouts", "Rollouts", Rollout.state, Rollout.tenant),
        ("edgec_device_updates", "Devices in rollouts", DeviceUpdate.state, DeviceUpdate.tenant),
    ):
        gauge = Gauge(name, text, ["state"], registry=registry)
        rows = session.execute(select(column, func.count()).where(owner == tenant).group_by(column))
        for state, count in rows:
            gauge.labels(state).set(count)
    alerts = Gauge("edgec_alerts_open", "Open alerts", registry=registry)
    open_alerts = select(func.count()).where(Alert.tenant == tenant, Alert.closed_at.is_(None))
    alerts.set(session.scalar(open_alerts) or 0)
    trust = session.get(TrustSet, tenant)
    if trust is not None:
        left = Gauge(
            "edgec_metadata_valid_seconds", "Until the timestamp expires", registry=registry
        )
        left.set((trust.expires_at - utcnow()).total_seconds())
