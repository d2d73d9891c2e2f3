"""Which blobs a device may fetch: those of what it is assigned, and nothing else.

So a stolen device key exposes the releases of that device only.
"""

from sqlalchemy import ColumnElement, exists, select
from sqlalchemy.orm import Session

from edgec_fleet.db.schema import (
    Assignment,
    Blob,
    Device,
    Model,
    Patch,
    Release,
    Variant,
    VariantFile,
)

_RECENT = 2  # assignments: the newest may not have reached the device yet


def may_fetch(session: Session, device: Device, digest: str) -> bool:
    """Return whether `digest` is metadata, or belongs to an assigned release of the device."""
    blob = session.get(Blob, (device.tenant, digest))
    if blob is None:
        return False
    if blob.kind == "metadata":
        return True
    manifests = assigned_manifests(session, device)
    return digest in manifests or bool(
        session.scalar(select(_reachable(device.tenant, manifests, digest)))
    )


def assigned_manifests(session: Session, device: Device) -> set[str]:
    """Return the manifest digests in the device's newest assignments."""
    rows = session.scalars(
        select(Assignment.targets)
        .where(Assignment.device_id == device.id)
        .order_by(Assignment.counter.desc())
        .limit(_RECENT)
    )
    return {target["sha256"] for targets in rows for target in targets}


def _reachable(tenant: str, manifests: set[str], digest: str) -> ColumnElement[bool]:
    """Return the SQL condition: a shipped file, a patch to one, or an acceptance set."""
    variants = select(Variant.id).where(
        Variant.tenant == tenant, Variant.manifest_sha256.in_(manifests)
    )
    files = select(VariantFile.sha256).where(
        VariantFile.variant_id.in_(variants), VariantFile.shipped.is_(True)
    )
    models = (
        select(Release.model)
        .join(Variant, Variant.release_id == Release.id)
        .where(Variant.id.in_(variants))
    )
    return (
        exists(files.where(VariantFile.sha256 == digest))
        | exists(
            select(Patch.id).where(
                Patch.tenant == tenant, Patch.sha256 == digest, Patch.new_sha256.in_(files)
            )
        )
        | exists(
            select(Model.name).where(
                Model.tenant == tenant,
                Model.acceptance_sha256 == digest,
                Model.name.in_(models),
            )
        )
    )
