"""Blobs of a tenant: rows that say who may fetch what, bytes in the blob store."""

from sqlalchemy.orm import Session

from edgec_bundle.store import BlobStore, FolderBlobStore
from edgec_fleet.db.schema import Blob, utcnow
from edgec_fleet.db.session import insert_or
from edgec_fleet.errors import UnknownError
from edgec_fleet.settings import Settings


def open_store(settings: Settings) -> FolderBlobStore:
    """Return the server's blob store."""
    return FolderBlobStore(settings.blobs_dir)


def put(session: Session, store: BlobStore, tenant: str, data: bytes, kind: str) -> str:
    """Store `data` for `tenant` and return its sha256. Bytes first, then the row."""
    digest = store.put(data)
    register(session, tenant, digest, len(data), kind)
    return digest


def register(session: Session, tenant: str, digest: str, size: int, kind: str) -> None:
    """Let `tenant` fetch the blob `digest`, whose bytes are in the store already."""
    values = {"tenant": tenant, "sha256": digest, "bytes": size, "kind": kind}
    insert_or(session, Blob, {**values, "created_at": utcnow()}, {})


def get(session: Session, tenant: str, digest: str) -> Blob:
    """Return the tenant's blob row. Raises UnknownError, also for another tenant's blob."""
    row = session.get(Blob, (tenant, digest))
    if row is None:
        raise UnknownError(f"there is no blob {digest}")
    return row
