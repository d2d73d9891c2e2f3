"""Releases: found, listed, withdrawn. See `publish` for how they come in."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from edgec_fleet import audit
from edgec_fleet.db.schema import Model, Release, Variant
from edgec_fleet.errors import ConflictError, MissingKeyError, UnknownError
from edgec_fleet.registry import trust_state
from edgec_fleet.server import Server

_WHOLE = selectinload(Release.variants).selectinload(Variant.files)


def list_models(session: Session, tenant: str) -> Sequence[Model]:
    """Return the tenant's model lines by name."""
    return session.scalars(select(Model).where(Model.tenant == tenant).order_by(Model.name)).all()


def list_releases(
    session: Session,
    tenant: str,
    *,
    model: str | None = None,
    state: str | None = None,
    limit: int = 100,
) -> Sequence[Release]:
    """Return releases with variants and files, the newest first."""
    statement = select(Release).where(Release.tenant == tenant).options(_WHOLE)
    if model is not None:
        statement = statement.where(Release.model == model)
    if state is not None:
        statement = statement.where(Release.state == state)
    newest = statement.order_by(Release.created_at.desc(), Release.id).limit(limit)
    return session.scalars(newest).all()


def find_release(session: Session, tenant: str, model: str, version: str) -> Release | None:
    """Return the release with its variants and files, or None."""
    return session.scalar(
        select(Release)
        .where(Release.tenant == tenant, Release.model == model, Release.version == version)
        .options(_WHOLE)
    )


def get_release(session: Session, tenant: str, model: str, version: str) -> Release:
    """Return the release with its variants and files. Raises UnknownError."""
    release = find_release(session, tenant, model, version)
    if release is None:
        raise UnknownError(f"there is no release {version} of {model}")
    return release


def sign(server: Server, session: Session, release: Release, by: audit.Actor) -> None:
    """Sign all variants of an unsigned release with the release key held here.

    Raises:
        ConflictError: there is nothing left to sign.
        MissingKeyError: the release key is elsewhere; the detail says which command signs.
    """
    unsigned = [variant for variant in release.variants if not variant.signed]
    if not unsigned:
        raise ConflictError(f"{release.model} {release.version} is signed already")
    if not server.keystore(release.tenant).holds("targets"):
        raise MissingKeyError(
            f"the release key is not at this server: {how_to_sign()}", role="targets"
        )
    manifests = [server.store.read(variant.manifest_sha256) for variant in unsigned]
    trust_state.sign_targets(server, session, release.tenant, add=manifests)
    audit.record(
        session,
        release.tenant,
        by,
        "release.sign",
        "release",
        f"{release.model}/{release.version}",
        profiles=[variant.profile for variant in unsigned],
    )


def withdraw(
    server: Server,
    session: Session,
    release: Release,
    reason: str,
    by: audit.Actor,
    targets: bytes | None = None,
) -> None:
    """Re-sign the image repository without the release: no device installs it any more.

    Args:
        server: whose release key signs, unless `targets` is given.
        session: a writing transaction.
        release: published.
        reason: for people, kept with the release.
        by: who asked for it.
        targets: a finished targets.json without the release, signed elsewhere.

    Raises:
        ConflictError: the release is not published.
        MissingKeyError: the release key is elsewhere and no `targets` came.
        TrustError: `targets` is not acceptable.
    """
    paths = [variant.target_path for variant in release.variants if variant.signed]
    if not paths:
        raise ConflictError(f"{release.model} {release.version} is {release.state}, not published")
    if targets is not None:
        trust_state.accept_targets(server, session, release.tenant, targets, withdrawn=paths)
    else:
        trust_state.sign_targets(server, session, release.tenant, withdraw=paths)
    if release.state == "published":
        raise ConflictError("the targets.json still lists the release")
    release.withdrawn_reason = reason
    audit.record(
        session,
        release.tenant,
        by,
        "release.withdraw",
        "release",
        f"{release.model}/{release.version}",
        reason=reason,
    )


def how_to_sign(server_url: str = "URL") -> str:
    """Return the commands that sign a release where its key is, and publish it."""
    return (
        f"edgec sign BUNDLE... --key KEY --server {server_url} --token TOKEN && "
        f"edgec push BUNDLE... --server {server_url} --token TOKEN"
    )
