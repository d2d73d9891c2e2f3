"""Where the bytes come from that a device's assignment needs: full blobs, and patches to them.

A patch starts from the digest that the device itself reports; one is asked for when it is
missing. Of those that are ready it is offered the smallest that it says it can apply. After three
patches in a row that a device could not apply it gets full files, until it commits something.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgec_bundle.messages import SOURCE_ROLES, PatchSource, Source
from edgec_fleet.db.schema import (
    Assignment,
    Device,
    DeviceEvent,
    Model,
    Patch,
    Release,
    Variant,
    VariantFile,
)
from edgec_fleet.registry import patches

FAILED_PATCHES = 3  # from one base, then the device gets full files


@dataclass(frozen=True, slots=True)
class Plan:
    """The sources of one assignment, and the patches that are still being made for it."""

    sources: tuple[Source, ...]
    pending: tuple[Patch, ...]
    ready: tuple[Patch, ...]  # larger ones too: an earlier message may have offered them

    @property
    def digests(self) -> frozenset[str]:
        """Every blob that the device may ask for."""
        patches = {patch.sha256 for patch in self.ready if patch.sha256 is not None}
        return frozenset(patches | {source.sha256 for source in self.sources})


def plan(session: Session, device: Device, assignment: Assignment, *, ask: bool = False) -> Plan:
    """Return the sources of `assignment`; with `ask`, missing patches are queued to be made."""
    sources: list[Source] = []
    known: list[Patch] = []
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
            base = bases.get(file.role)
            rows: list[Patch] = []
            if base not in (None, file.sha256) and file.bytes >= patches.WORTH_A_PATCH_BYTES:
                rows = _patches(session, assignment.tenant, (base, file.sha256), formats, ask)
            known += rows
            sources.append(_file(file, model, rows))
        sources += _acceptance(session, assignment.tenant, model)
    pending = tuple(patch for patch in known if patch.state in ("queued", "making"))
    ready = tuple(patch for patch in known if patch.state == "ready")
    return Plan(tuple(sources), pending, ready)


def _formats(device: Device) -> tuple[str, ...]:
    hello = device.hello or {}
    return patches.formats_for(hello.get("delta_formats"), hello.get("memory_bytes"))


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


def _file(file: VariantFile, model: str, rows: Sequence[Patch]) -> Source:
    """Return the source of a file, with the smallest patch to it that is ready."""
    made = [
        PatchSource(
            base=patch.base_sha256, sha256=patch.sha256, bytes=patch.bytes, format=patch.format
        )
        for patch in rows
        if patch.state == "ready" and patch.sha256 is not None and patch.bytes is not None
    ]
    smallest = sorted(made, key=lambda patch: patch.bytes)[:1]
    return Source(
        sha256=file.sha256, bytes=file.bytes, model=model, role=file.role, patches=tuple(smallest)
    )


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
    session: Session, tenant: str, pair: tuple[str, str], formats: Sequence[str], ask: bool
) -> list[Patch]:
    """Return the patches between a pair of files that the device may get, or waits for."""
    if ask:
        return patches.ask(session, tenant, *pair, formats, waits=True)
    rows = patches.known_patches(session, tenant, *pair)
    return [rows[name] for name in formats if name in rows]
