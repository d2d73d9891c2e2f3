"""The audit trail: who did what to what, append-only, each entry hashed over the one before."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import rfc8785
from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_bundle.digest import sha256_hex
from edgec_fleet.db.schema import AuditEntry, Tenant, utcnow

FIRST = "0" * 64  # what the first entry names as the one before


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, as the trail names them; `id` is None for the server itself."""

    name: str
    id: str | None = None


SYSTEM = Actor("edgec-fleet")


def record(
    session: Session,
    tenant: str,
    actor: Actor,
    action: str,
    object_kind: str,
    object_id: str,
    **detail: Any,
) -> AuditEntry:
    """Append one entry to the tenant's trail, within the caller's writing transaction.

    `detail` must be JSON-able and hold no secret.
    """
    # One writer at a time per tenant: lock the tenant's row (a no-op on SQLite, whose writing
    # transactions already exclude each other).
    session.execute(
        select(Tenant.id).where(Tenant.id == tenant).with_for_update(key_share=True)
    ).one()
    last = session.execute(
        select(AuditEntry.seq, AuditEntry.sha256)
        .where(AuditEntry.tenant == tenant)
        .order_by(AuditEntry.seq.desc())
        .limit(1)
    ).first()
    entry = AuditEntry(
        tenant=tenant,
        seq=1 if last is None else last.seq + 1,
        at=utcnow(),
        actor_id=actor.id,
        actor_name=actor.name,
        action=action,
        object_kind=object_kind,
        object_id=object_id,
        detail=detail,
        previous_sha256=FIRST if last is None else last.sha256,
    )
    entry.sha256 = entry_sha256(entry)
    session.add(entry)
    session.flush()
    return entry


def entry_sha256(entry: AuditEntry) -> str:
    """Return the hash that `entry` must carry: over every other column, as RFC 8785 JSON."""
    covered = {
        "tenant": entry.tenant,
        "seq": entry.seq,
        "at": entry.at.isoformat(timespec="microseconds"),
        "actor_id": entry.actor_id,
        "actor_name": entry.actor_name,
        "action": entry.action,
        "object_kind": entry.object_kind,
        "object_id": entry.object_id,
        "detail": entry.detail,
        "previous_sha256": entry.previous_sha256,
    }
    return sha256_hex(rfc8785.dumps(covered))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a walk over the trail found; `problems` is empty when it is whole.

    `head` is the hash of the last entry: kept elsewhere, it also shows a cut-off end.
    """

    entries: int
    head: str
    problems: tuple[str, ...]


def verify(session: Session, tenant: str) -> Verdict:
    """Walk the tenant's trail from the first entry and report every break in the chain."""
    problems: list[str] = []
    previous, seq, entries = FIRST, 0, 0
    for entry in _in_order(session, tenant):
        entries += 1
        if entry.seq != seq + 1:
            problems.append(f"entry {seq + 1} is missing: entry {entry.seq} follows {seq}")
        elif entry.previous_sha256 != previous:
            problems.append(f"entry {entry.seq} does not continue entry {seq}")
        if entry.sha256 != entry_sha256(entry):
            problems.append(f"entry {entry.seq} was changed after it was written")
        previous, seq = entry.sha256, entry.seq
    return Verdict(entries=entries, head=previous, problems=tuple(problems))


def _in_order(session: Session, tenant: str) -> Iterator[AuditEntry]:
    statement = select(AuditEntry).where(AuditEntry.tenant == tenant).order_by(AuditEntry.seq)
    yield from session.scalars(statement.execution_options(yield_per=500))
