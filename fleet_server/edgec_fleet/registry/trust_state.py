"""The image repository of each tenant, kept in the database.

Every function takes a writing session, locks the tenant, loads the repository, changes it
through `edgec_bundle.trust.image`, stores it, and mirrors into `variants` and `models` what is
now signed. When it can (a targets.json and an acceptance.json are there, and the online keys
are here) it publishes: a new metadata set becomes the blob that devices are sent to.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta

from securesystemslib.signer import Key
from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from tuf.api.metadata import Root, Targets, Timestamp

from edgec_bundle.errors import TrustError
from edgec_bundle.trust.acceptance import AcceptanceSet
from edgec_bundle.trust.image import ImageRepository
from edgec_bundle.trust.metadata import keyids_of, sign
from edgec_bundle.trust.metadata import load as load_metadata
from edgec_bundle.trust.root import ROLES, RoleKeys, new_root
from edgec_fleet import blobs
from edgec_fleet.db.schema import Blob, Tenant, TrustMetadata, TrustSet, utcnow
from edgec_fleet.errors import ConflictError, UnknownError
from edgec_fleet.keystore import ONLINE, Keystore
from edgec_fleet.registry import mirror
from edgec_fleet.server import Server

logger = logging.getLogger(__name__)

ROOT_LIFE = timedelta(days=365 * 10)
DOCUMENT_LIFE = timedelta(days=365)  # of targets and acceptance
RENEW_BEFORE = timedelta(days=60)  # of a document's end, if its key is here
_KEPT_SETS = 20  # metadata blobs kept, for devices that are still fetching an older one


def establish(
    server: Server, session: Session, tenant: str, keys: Mapping[str, Key] | None = None
) -> None:
    """Make the tenant's first root, and empty documents for the roles whose keys are here.

    Args:
        server: whose keystore signs root.
        session: a writing transaction.
        tenant: must not have a root yet.
        keys: role -> public key, for roles whose private key is elsewhere.

    Raises:
        ConflictError: the tenant has a root.
        MissingKeyError: neither `keys` nor the keystore has the key of some role.
    """
    keystore, now = server.keystore(tenant), utcnow()
    if _files(session, tenant):
        raise ConflictError(f"tenant {tenant} has a root of trust already")
    given = dict(keys or {})
    roles = {role: RoleKeys((given.get(role) or keystore.public(role),)) for role in ROLES}
    root = sign(new_root(roles, expires=now + ROOT_LIFE), keystore.signer("root"))
    repository = ImageRepository.create(root)
    if "targets" not in given:
        draft = repository.next_targets(expires=now + DOCUMENT_LIFE)
        repository = repository.accept_targets(sign(draft, keystore.signer("targets")), now=now)
    if "acceptance" not in given:
        empty = repository.next_acceptance({}, expires=now + DOCUMENT_LIFE)
        signed = sign(empty, keystore.signer("acceptance"))
        repository = repository.accept_acceptance(signed, now=now)
    _store(server, session, tenant, repository, now)


def repository_of(session: Session, tenant: str) -> ImageRepository:
    """Return the tenant's image repository. Raises UnknownError: it has none."""
    files = _files(session, tenant)
    if not files:
        raise UnknownError(f"tenant {tenant} has no root of trust")
    return ImageRepository(files)


def keys_of(root: Root, role: str) -> tuple[str, ...]:
    """Return the ids of the keys that `root` names for `role`, sorted."""
    return tuple(sorted(keyids_of(root, role)))


def first_root(session: Session, tenant: str) -> bytes:
    """Return version 1 of root, whose digest enrolment tokens carry. Raises UnknownError."""
    row = session.get(TrustMetadata, (tenant, "1.root.json"))
    if row is None:
        raise UnknownError(f"there is no tenant {tenant}")
    return row.data


def current_set(session: Session, tenant: str) -> TrustSet:
    """Return the metadata set in force. Raises UnknownError: nothing was published yet."""
    row = session.get(TrustSet, tenant)
    if row is None:
        raise UnknownError(f"tenant {tenant} has published nothing yet")
    return row


def accept_targets(
    server: Server, session: Session, tenant: str, payload: bytes, withdrawn: Iterable[str] = ()
) -> None:
    """Publish a targets.json that was signed elsewhere.

    Raises:
        TrustError: see `ImageRepository.accept_targets`.
    """
    _change(
        server,
        session,
        tenant,
        lambda repository, now: repository.accept_targets(payload, now=now, withdrawn=withdrawn),
    )


def sign_targets(
    server: Server,
    session: Session,
    tenant: str,
    *,
    add: Iterable[bytes] = (),
    withdraw: Iterable[str] = (),
    allow_rollback: Iterable[str] = (),
) -> None:
    """Sign the next targets.json with the release key held here, and publish it.

    Raises:
        MissingKeyError: the release key is elsewhere.
        TrustError: see `release.next_targets`.
    """
    signer, withdrawn = server.keystore(tenant).signer("targets"), tuple(withdraw)

    def change(repository: ImageRepository, now: datetime) -> ImageRepository:
        draft = repository.next_targets(
            expires=now + DOCUMENT_LIFE,
            add=add,
            withdraw=withdrawn,
            allow_rollback=allow_rollback,
        )
        return repository.accept_targets(sign(draft, signer), now=now, withdrawn=withdrawn)

    _change(server, session, tenant, change)


def accept_acceptance(server: Server, session: Session, tenant: str, payload: bytes) -> None:
    """Publish an acceptance.json that was signed elsewhere. Raises TrustError."""
    _change(
        server,
        session,
        tenant,
        lambda repository, now: repository.accept_acceptance(payload, now=now),
    )


def sign_acceptance(
    server: Server, session: Session, tenant: str, changes: Mapping[str, AcceptanceSet | None]
) -> None:
    """Sign the next acceptance.json with the acceptance key held here, and publish it.

    Raises:
        MissingKeyError: the acceptance key is elsewhere.
        TrustError: an entry is not acceptable.
    """
    signer = server.keystore(tenant).signer("acceptance")

    def change(repository: ImageRepository, now: datetime) -> ImageRepository:
        draft = repository.next_acceptance(changes, expires=now + DOCUMENT_LIFE)
        return repository.accept_acceptance(sign(draft, signer), now=now)

    _change(server, session, tenant, change)


def add_root(server: Server, session: Session, tenant: str, payload: bytes) -> None:
    """Publish a next version of root: rotated keys. Raises TrustError."""
    _change(server, session, tenant, lambda repository, _now: repository.add_root(payload))


def refresh(server: Server, now: datetime | None = None) -> tuple[str, ...]:
    """Sign anew what grows old, for every tenant; call it every few minutes.

    Timestamp and snapshot are renewed daily. Targets and acceptance are renewed two months
    before they end if their keys are here. A tenant whose metadata cannot be renewed is logged
    and does not hold up the others.

    Args:
        server: whose tenants.
        now: by the server's clock; None: look at it.

    Returns:
        The tenants that have a new metadata set.
    """
    with server.db.read() as session:
        tenants = session.scalars(select(Tenant.id).order_by(Tenant.id)).all()
    renewed = []
    for tenant in tenants:
        try:
            with server.db.write() as session:
                if _refresh(server, session, tenant, now or utcnow()):
                    renewed.append(tenant)
        except TrustError as error:
            logger.error("tenant %s: metadata cannot be renewed: %s", tenant, error)
    return tuple(renewed)


def _refresh(server: Server, session: Session, tenant: str, now: datetime) -> bool:
    _lock(session, tenant)
    files = _files(session, tenant)
    if not files:
        return False
    keystore = server.keystore(tenant)
    before = repository = ImageRepository(files)
    for role, expiry in before.expiries().items():
        if expiry - now < RENEW_BEFORE:
            repository = _renew(repository, keystore, role, now)
    if repository is before and not (_publishable(before, keystore) and before.is_due(now)):
        return False
    _store(server, session, tenant, repository, now)
    return True


def _renew(
    repository: ImageRepository, keystore: Keystore, role: str, now: datetime
) -> ImageRepository:
    """Return the repository with the same document of `role`, signed for another year."""
    if role not in ("targets", "acceptance") or not keystore.holds(role):
        logger.warning("the %s metadata ends soon and its key is not here: sign it anew", role)
        return repository
    signer, expires = keystore.signer(role), now + DOCUMENT_LIFE
    if role == "targets":
        signed = sign(repository.next_targets(expires=expires), signer)
        return repository.accept_targets(signed, now=now)
    return repository.accept_acceptance(
        sign(repository.next_acceptance({}, expires=expires), signer), now=now
    )


def _change(
    server: Server,
    session: Session,
    tenant: str,
    change: Callable[[ImageRepository, datetime], ImageRepository],
) -> None:
    _lock(session, tenant)
    now = utcnow()
    _store(server, session, tenant, change(repository_of(session, tenant), now), now)


def _lock(session: Session, tenant: str) -> None:
    """Let one transaction at a time change the tenant's metadata."""
    session.execute(
        select(Tenant.id).where(Tenant.id == tenant).with_for_update(key_share=True)
    ).one()


def _files(session: Session, tenant: str) -> dict[str, bytes]:
    rows = session.execute(
        select(TrustMetadata.filename, TrustMetadata.data).where(TrustMetadata.tenant == tenant)
    )
    return {row.filename: row.data for row in rows}


def _publishable(repository: ImageRepository, keystore: Keystore) -> bool:
    documents = repository.targets_bytes is not None and repository.acceptance_bytes is not None
    return documents and all(keystore.holds(role) for role in ONLINE)


def _store(
    server: Server, session: Session, tenant: str, repository: ImageRepository, now: datetime
) -> None:
    """Publish if possible, write changed files, drop pruned ones, mirror what is signed."""
    keystore = server.keystore(tenant)
    if publish := _publishable(repository, keystore):
        repository = repository.publish(
            snapshot=keystore.signer("snapshot"), timestamp=keystore.signer("timestamp"), now=now
        )
    before = _files(session, tenant)
    gone = before.keys() - repository.files.keys()
    session.execute(
        delete(TrustMetadata).where(
            TrustMetadata.tenant == tenant, TrustMetadata.filename.in_(gone)
        )
    )
    for name, data in repository.files.items():
        if before.get(name) != data:
            session.merge(TrustMetadata(tenant=tenant, filename=name, data=data, created_at=now))
    session.flush()
    if publish:
        _publish_set(server, session, tenant, repository, now)
        targets = load_metadata(repository.targets_bytes or b"", Targets).signed.targets
        mirror.targets(session, tenant, targets, now)
        mirror.acceptance(session, tenant, repository.acceptance)


def _publish_set(
    server: Server, session: Session, tenant: str, repository: ImageRepository, now: datetime
) -> None:
    payload = repository.metadata_set()
    digest = blobs.put(session, server.store, tenant, payload, "metadata")
    row = session.get(TrustSet, tenant)
    expires = load_metadata(repository.files["timestamp.json"], Timestamp).signed.expires
    session.merge(
        TrustSet(
            tenant=tenant,
            generation=1 if row is None else row.generation + 1,
            sha256=digest,
            bytes=len(payload),
            expires_at=expires,
            made_at=now,
        )
    )
    session.flush()
    _drop_old_sets(server, session, tenant)


def _drop_old_sets(server: Server, session: Session, tenant: str) -> None:
    old = session.scalars(
        select(Blob)
        .where(Blob.tenant == tenant, Blob.kind == "metadata")
        .order_by(Blob.created_at.desc(), Blob.sha256)
        .offset(_KEPT_SETS)
    ).all()
    for row in old:
        session.delete(row)
        server.store.delete(row.sha256)
