"""The queue of patches to be made: which formats suit a device, and what is still worth a try.

A row asks for one patch, between two blobs in one format. The gateway makes them (see
`gateway.patches`); `audience` asks for them ahead, `gateway.sources` when a device is told.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgec_bundle.delta import FORMATS, SMALL_BYTES, TENSOR_FORMATS
from edgec_fleet.db.schema import Blob, Patch, new_id

WORTH_A_PATCH_BYTES = 1024  # smaller files travel whole
MOST_BASES = 64  # that patches to one file start from; other devices get the full file
_MEMORY_SHARE = 4  # of a device's memory an update may take one in so many
_NEEDS_BYTES = {"tensor-planes": 16 << 20, "bsdiff4": 16 << 20, "zstd": 32 << 20}
_NEEDS_MOST_BYTES = 64 << 20  # "tensor" where numpy reads it


def formats_for(said: Any, memory_bytes: Any) -> tuple[str, ...]:
    """Return the formats that a device applies within its means, from what its hello says.

    Args:
        said: `delta_formats`. A device with little time names "tensor" only if it has edgec-accel.
        memory_bytes: of the device; None: not said.
    """
    known = tuple(name for name in FORMATS if isinstance(said, list | tuple) and name in said)
    if not isinstance(memory_bytes, int) or memory_bytes <= 0:
        return known
    room = memory_bytes // _MEMORY_SHARE
    return tuple(name for name in known if _NEEDS_BYTES.get(name, _NEEDS_MOST_BYTES) <= room)


def worth_making(formats: Sequence[str], size: int, rows: Mapping[str, Patch]) -> tuple[str, ...]:
    """Return those of `formats` that may give a device its smallest patch.

    A device that takes "tensor" needs no planes. For large files the formats that compare whole
    files take minutes and gigabytes: they have their turn when a tensor patch is of no use.

    Args:
        formats: what the device takes.
        size: bytes of the old and the new file together.
        rows: the patches that were asked for so far, by format.
    """
    aware = [name for name in formats if name in TENSOR_FORMATS][:1]
    whole = [name for name in formats if name not in TENSOR_FORMATS]
    spoiled = all(name in rows and rows[name].state in ("larger", "failed") for name in aware)
    return tuple(aware + whole) if size <= SMALL_BYTES or spoiled else tuple(aware)


def known_patches(session: Session, tenant: str, base: str, new: str) -> dict[str, Patch]:
    """Return the patches between two blobs that were asked for so far, by format."""
    found = session.scalars(
        select(Patch).where(
            Patch.tenant == tenant, Patch.base_sha256 == base, Patch.new_sha256 == new
        )
    )
    return {patch.format: patch for patch in found}


def ask(
    session: Session,
    tenant: str,
    base: str,
    new: str,
    formats: Sequence[str],
    *,
    waits: bool,
    audience: int = 0,
) -> list[Patch]:
    """Have patches made that are not there yet; return all that a device may get, or waits for.

    Args:
        session: a writing transaction.
        tenant: whose blobs.
        base: digest of the old blob; without it nothing is asked for.
        new: digest of the new one.
        formats: what the device takes, as `formats_for` says.
        waits: a device's assignment waits for them; else they are made ahead.
        audience: how many devices run `base`, as far as it was counted.
    """
    rows = known_patches(session, tenant, base, new)
    after, before = session.get(Blob, (tenant, new)), session.get(Blob, (tenant, base))
    if before is None or after is None:
        return []
    wanted = worth_making(formats, before.bytes + after.bytes, rows)
    if any(name not in rows for name in wanted):
        # This row orders processes that ask for the same patch at once.
        session.get(Blob, (tenant, new), with_for_update=True)
        rows = known_patches(session, tenant, base, new)
        if rows or _has_room(session, tenant, new):
            for name in wanted:
                if name not in rows:
                    rows[name] = _queued(tenant, base, new, name)
                    session.add(rows[name])
    for name in wanted:
        if name in rows and rows[name].state == "queued":
            rows[name].asked = rows[name].asked or waits
            rows[name].audience = max(rows[name].audience, audience)
    session.flush()
    return [
        rows[name]
        for name in formats
        if name in rows and (name in wanted or rows[name].state == "ready")
    ]


def _queued(tenant: str, base: str, new: str, name: str) -> Patch:
    return Patch(
        id=new_id(),
        tenant=tenant,
        base_sha256=base,
        new_sha256=new,
        format=name,
        state="queued",
        audience=0,
        asked=False,
        attempts=0,
    )


def _has_room(session: Session, tenant: str, new: str) -> bool:
    bases = select(func.count(Patch.base_sha256.distinct())).where(
        Patch.tenant == tenant, Patch.new_sha256 == new
    )
    return (session.scalar(bases) or 0) < MOST_BASES
