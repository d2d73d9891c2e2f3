"""Where the bytes come from that a device's assignment needs: full blobs, and patches to them.

A patch starts from the digest that the device itself reports; one is asked for when it is
missing. After three patches in a row that a device could not apply it gets full files, until
it commits something.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgec_bundle.delta import FORMATS
from edgec_bundle.messages import SOURCE_ROLES, PatchSource, Source
from edgec_fleet.db.schema import (
    Assignment,
    Blob,
    Device,
    DeviceEvent,
    Model,
    Patch,
    Release,
    Variant,
    VariantFile,
    new_id,
)

FAILED_PATCHES = 3  # from one base, then the device gets full files
WORTH_A_PATCH_BYTES = 1024  # smaller files travel whole


@dataclass(frozen=True, slots=True)
class Plan:
    """The sources of one assignment, and the patches that are still being made for it."""

    sources: tuple[Source, ...]
    pending: tuple[Patch, ...]

    @property
    def digests(self) -> frozenset[str]:
        """Every blob that the device may ask for."""
        patches = {patch.sha256 for source in self.sources for patch in source.patches}
        return frozenset(patches | {source.sha256 for source in self.sources})


def plan(session: Session, device: Device, assignment: Assignment, *, ask: bool = False) -> Plan:
    """Return the sources of `assignment`; with `ask`, missing patches are queued to be made."""
    sources: list[Source] = []
    pending: list[Patch] = []
    formats = _formats(device)
    for target in assignment.targets:
        found = session.execute(
            select(Variant, Release.model)
            .join(Release, Release.id == Variant.release_id)
            .where(Variant.tenant == assignment.tenant, Variant.manifest_sha256 == target["sha256"])
        ).first()
        if found is None:
            continue
        variant, model = found
        sources.append(_manifest(variant, model))
        bases = _bases(device, model) if formats else {}
        if bases and _gave_up(session, device, model):
            bases = {}
        for file in _shipped(session, variant):
            patches = []
            base = bases.get(file.role)
            if base is not None and base != file.sha256 and file.bytes >= WORTH_A_PATCH_BYTES:
                patches = _patches(session, assignment.tenant, base, file.sha256, formats, ask)
            pending += [patch for patch in patches if patch.state in ("queued", "making")]
            sources.append(_file(file, model, patches))
        sources += _acceptance(session, assignment.tenant, model)
    return Plan(tuple(sources), tuple(pending))


def _formats(device: Device) -> tuple[str, ...]:
    said = (device.hello or {}).get("delta_formats", ())
    return tuple(name for name in FORMATS if name in said)


def _bases(device: Device, model: str) -> Mapping[str, str]:
    """Return role -> digest of the files that the device reports to run."""
    active = ((device.models or {}).get(model) or {}).get("active") or {}
    files: Mapping[str, str] = active.get("files") or {}
    return files


def _gave_up(session: Session, device: Device, model: str) -> bool:
    """Return whether the device failed to apply patches too often since its last commit."""
    mine = (DeviceEvent.device_id == device.id, DeviceEvent.model == model)
    committed = (
        select(func.coalesce(func.max(DeviceEvent.id), 0))
        .where(*mine, DeviceEvent.phase == "committed")
        .scalar_subquery()
    )
    failures = session.scalar(
        select(func.count()).where(
            *mine,
            DeviceEvent.id > committed,
            DeviceEvent.previous_phase == "patching",
            DeviceEvent.phase.in_(("fetching", "failed")),
        )
    )
    return (failures or 0) >= FAILED_PATCHES


def _manifest(variant: Variant, model: str) -> Source:
    return Source(
        sha256=variant.manifest_sha256, bytes=variant.manifest_bytes, model=model, role="manifest"
    )


def _file(file: VariantFile, model: str, patches: Iterable[Patch]) -> Source:
    made = tuple(
        PatchSource(
            base=patch.base_sha256, sha256=patch.sha256, bytes=patch.bytes, format=patch.format
        )
        for patch in patches
        if patch.state == "ready" and patch.sha256 is not None and patch.bytes is not None
    )
    return Source(sha256=file.sha256, bytes=file.bytes, model=model, role=file.role, patches=made)


def _acceptance(session: Session, tenant: str, model: str) -> list[Source]:
    row = session.get(Model, (tenant, model))
    if row is None or row.acceptance_sha256 is None or row.acceptance_bytes is None:
        return []
    return [
        Source(
            sha256=row.acceptance_sha256,
            bytes=row.acceptance_bytes,
            model=model,
            role="acceptance",
        )
    ]


def _shipped(session: Session, variant: Variant) -> Sequence[VariantFile]:
    files = session.scalars(
        select(VariantFile)
        .where(VariantFile.variant_id == variant.id, VariantFile.shipped.is_(True))
        .order_by(VariantFile.role)
    )
    return [file for file in files if file.role in SOURCE_ROLES]


def _patches(
    session: Session, tenant: str, base: str, new: str, formats: Sequence[str], ask: bool
) -> list[Patch]:
    rows: dict[str, Patch] = {
        patch.format: patch
        for patch in session.scalars(
            select(Patch).where(
                Patch.tenant == tenant, Patch.base_sha256 == base, Patch.new_sha256 == new
            )
        )
    }
    if ask and session.get(Blob, (tenant, base)) is not None:
        for name in formats:
            if name not in rows:
                rows[name] = _queue(session, tenant, base, new, name)
    return [rows[name] for name in formats if name in rows]


def _queue(session: Session, tenant: str, base: str, new: str, name: str) -> Patch:
    """Add a patch to be made, or return the one that another gateway added at this moment."""
    values: dict[str, Any] = {
        "tenant": tenant,
        "base_sha256": base,
        "new_sha256": new,
        "format": name,
    }
    known = select(Patch).filter_by(**values)
    # The tenant's row orders gateways that ask for the same patch at once.
    session.get(Blob, (tenant, new), with_for_update=True)
    found = session.scalar(known)
    if found is None:
        found = Patch(id=new_id(), state="queued", **values)
        session.add(found)
        session.flush()
    return found
