"""Who may do what at the broker, read from the database as one frozen value.

A device reads its own `down` topics and writes its own `up` topics. It also reads the blocks of
the blobs that its newest assignment needs, digest by digest: a wildcard over blobs brings it
nothing that it was not assigned, of its own tenant or of another. A revoked device may nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_bundle.errors import MetadataError
from edgec_bundle.trust.director import parse_target_path
from edgec_fleet.db.schema import (
    Assignment,
    Blob,
    Certificate,
    Device,
    Model,
    Patch,
    Tenant,
    Variant,
    VariantFile,
    utcnow,
)

GATEWAY = "edgec.gateway"  # the dot keeps it apart from every device id
_METADATA_KEPT = 3  # metadata sets of a tenant that devices may still be fetching


@dataclass(frozen=True, slots=True)
class Grant:
    """The blobs of its tenant that one device may read."""

    tenant: str
    digests: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that the broker decides by, as of `read_at`.

    Attributes:
        devices: device id -> the blobs it may read.
        revoked: ids of revoked devices.
        serials: of revoked certificates, lowercase hex.
        tenants: all that there are; devices publish under these alone.
        read_at: when the database was read; not part of what makes two policies equal.
    """

    devices: Mapping[str, Grant] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()
    serials: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    read_at: datetime | None = field(default=None, compare=False)

    def may_read(self, device: str, tenant: str, digest: str) -> bool:
        """Return whether `device` may read blocks of `digest` under `tenant`'s topics."""
        grant = self.devices.get(device)
        return grant is not None and grant.tenant == tenant and digest in grant.digests


def read(session: Session) -> Policy:
    """Return the policy of this moment."""
    now = utcnow()
    rows = session.execute(select(Device.id, Device.tenant, Device.revoked_at)).all()
    metadata = _metadata(session)
    assigned = _assigned(session)
    devices = {
        row.id: Grant(
            row.tenant, assigned.get(row.id, frozenset()) | metadata.get(row.tenant, frozenset())
        )
        for row in rows
        if row.revoked_at is None
    }
    serials = session.scalars(
        select(Certificate.serial).where(
            Certificate.revoked_at.is_not(None), Certificate.not_after > now
        )
    )
    return Policy(
        devices=devices,
        revoked=frozenset(row.id for row in rows if row.revoked_at is not None),
        serials=frozenset(serials),
        tenants=frozenset(session.scalars(select(Tenant.id))),
        read_at=now,
    )


def _metadata(session: Session) -> dict[str, frozenset[str]]:
    """Return each tenant's newest metadata sets."""
    newest: dict[str, list[str]] = {}
    rows = session.execute(
        select(Blob.tenant, Blob.sha256)
        .where(Blob.kind == "metadata")
        .order_by(Blob.created_at.desc())
    )
    for tenant, digest in rows:
        newest.setdefault(tenant, []).append(digest)
    return {tenant: frozenset(found[:_METADATA_KEPT]) for tenant, found in newest.items()}


def _assigned(session: Session) -> dict[str, frozenset[str]]:
    """Return what each device's newest assignment needs, whether it was published yet or not."""
    rows = session.execute(
        select(Assignment.device_id, Assignment.tenant, Assignment.targets).where(
            Assignment.superseded_at.is_(None)
        )
    ).all()
    wanted = {target["sha256"] for row in rows for target in row.targets}
    files = _files(session, wanted)
    acceptance = {
        (row.tenant, row.name): row.acceptance_sha256
        for row in session.execute(select(Model.tenant, Model.name, Model.acceptance_sha256))
    }
    found: dict[str, frozenset[str]] = {}
    for row in rows:
        digests: set[str] = set()
        for target in row.targets:
            digests |= files.get(target["sha256"], frozenset())
            accepted = acceptance.get((row.tenant, _model(target["path"])))
            digests |= {accepted} if accepted else set()
        found[row.device_id] = frozenset(digests)
    return found


def _files(session: Session, manifests: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return manifest digest -> the digests of it, its shipped files, and ready patches to them."""
    rows = session.execute(
        select(Variant.manifest_sha256, VariantFile.sha256)
        .join(VariantFile, VariantFile.variant_id == Variant.id)
        .where(VariantFile.shipped.is_(True), Variant.manifest_sha256.in_(sorted(manifests)))
    ).all()
    patches: dict[str, set[str]] = {}
    for new, digest in session.execute(
        select(Patch.new_sha256, Patch.sha256).where(
            Patch.state == "ready", Patch.new_sha256.in_(sorted({row.sha256 for row in rows}))
        )
    ):
        if digest is not None:
            patches.setdefault(new, set()).add(digest)
    found: dict[str, set[str]] = {}
    for manifest, digest in rows:
        known = found.setdefault(manifest, {manifest})
        known |= {digest} | patches.get(digest, set())
    return {manifest: frozenset(digests) for manifest, digests in found.items()}


def _model(path: str) -> str:
    try:
        return parse_target_path(path).model
    except MetadataError:
        return ""
