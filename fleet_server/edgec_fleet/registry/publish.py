"""Publishing: bundles come in, every byte is checked, and what is signed becomes available.

A publication is all variants of one release at once. It can be repeated: equal bundles change
nothing, a bundle for a new profile adds a variant, other bytes under the same name are refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from edgec_bundle import strict_json
from edgec_bundle.archive import Bundle, open_bundle
from edgec_bundle.manifest import Manifest, target_path
from edgec_fleet import audit, blobs
from edgec_fleet.db.schema import Model, Release, Variant, VariantFile, new_id, utcnow
from edgec_fleet.db.session import insert_or
from edgec_fleet.errors import ConflictError, RefusedError
from edgec_fleet.registry import mirror, releases, trust_state
from edgec_fleet.server import Server

MAXIMUM_VARIANTS = 64
MAXIMUM_MEASUREMENTS_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Publication:
    """What became of it: the release, and the command that signs it if it is not signed."""

    release: Release
    sign_with: str | None


def take(server: Server, paths: Sequence[Path]) -> tuple[Bundle, ...]:
    """Return the bundles at `paths` (.edgeb files or folders), checked and in the blob store.

    Comes before the transaction of `publish`, which would otherwise hold up other writers
    for as long as large files take. Until a row names them, nobody can fetch these blobs.

    Raises:
        BundleError: a bundle is malformed, or its files are not the pinned ones.
        RefusedError: the bundles are not one release, with one bundle per profile.
    """
    bundles = _checked(paths)
    for bundle in bundles:
        server.store.put(bundle.manifest_bytes)
        for entry in bundle.manifest.files:
            server.store.put(bundle.read(entry.role))
    return bundles


def publish(
    server: Server,
    session: Session,
    tenant: str,
    bundles: Sequence[Bundle],
    targets: bytes | None,
    by: audit.Actor,
    actor_id: str | None = None,
    server_url: str = "URL",
) -> Publication:
    """Make the bundles one release, and bring it into force if somebody signs.

    Args:
        server: signs if it holds the release key and `targets` is None.
        session: a writing transaction.
        tenant: whose release it becomes.
        bundles: what `take` returned.
        targets: a finished targets.json, signed elsewhere, that lists the bundles.
        by: who publishes, for the audit trail.
        actor_id: the same as a row of `actors`, if it is one.
        server_url: for the command in `Publication.sign_with`.

    Raises:
        TrustError: `targets` is not acceptable.
        RefusedError: `targets` does not list the bundles.
        ConflictError: the version or number was released before with other bytes.
    """
    release = _release_row(session, tenant, bundles[0].manifest, actor_id)
    for bundle in bundles:
        _add_variant(session, tenant, release, bundle)
    session.flush()
    session.refresh(release, ["variants"])
    audit.record(
        session,
        tenant,
        by,
        "release.publish",
        "release",
        f"{release.model}/{release.version}",
        manifests={bundle.manifest.profile: bundle.digest for bundle in bundles},
    )
    _sign(server, session, tenant, release, bundles, targets, by)
    unsigned = any(not variant.signed for variant in release.variants)
    return Publication(release, releases.how_to_sign(server_url) if unsigned else None)


def _checked(paths: Sequence[Path]) -> tuple[Bundle, ...]:
    """Return the bundles with every pinned byte verified, of one release, one per profile."""
    if not 0 < len(paths) <= MAXIMUM_VARIANTS:
        raise RefusedError(f"expected 1 to {MAXIMUM_VARIANTS} bundles, got {len(paths)}")
    bundles = tuple(open_bundle(path) for path in paths)
    for bundle in bundles:
        bundle.verify()
    names = {(b.manifest.model, b.manifest.version, b.manifest.release) for b in bundles}
    if len(names) > 1:
        found = ", ".join(f"{model} {version} ({n})" for model, version, n in sorted(names))
        raise RefusedError(f"expected variants of one release, got {found}")
    profiles = [bundle.manifest.profile for bundle in bundles]
    if len(set(profiles)) < len(profiles):
        raise RefusedError("expected one bundle per profile, got several for the same")
    return bundles


def _release_row(
    session: Session, tenant: str, manifest: Manifest, actor_id: str | None
) -> Release:
    """Return the row of the manifest's release, a new one unless it is there already."""
    model = {"tenant": tenant, "name": manifest.model, "created_at": utcnow()}
    insert_or(session, Model, model, {})
    release = releases.find_release(session, tenant, manifest.model, manifest.version)
    if release is not None:
        if release.number != manifest.release:
            raise ConflictError(
                f"{manifest.model} {manifest.version} has release number {release.number}, "
                f"this bundle says {manifest.release}"
            )
        return release
    other = session.scalar(
        select(Release.version).where(
            Release.tenant == tenant,
            Release.model == manifest.model,
            Release.number == manifest.release,
        )
    )
    if other is not None:
        raise ConflictError(
            f"release number {manifest.release} of {manifest.model} is version {other}; "
            "compile with a higher --release"
        )
    release = Release(
        id=new_id(),
        tenant=tenant,
        model=manifest.model,
        version=manifest.version,
        number=manifest.release,
        state="unsigned",
        created_at=utcnow(),
        created_by=actor_id,
    )
    session.add(release)
    session.flush()
    return release


def _add_variant(session: Session, tenant: str, release: Release, bundle: Bundle) -> None:
    """Write the bundle's rows; nothing to do if this very bundle is there."""
    manifest = bundle.manifest
    for variant in session.scalars(select(Variant).where(Variant.release_id == release.id)):
        if variant.profile == manifest.profile:
            if variant.manifest_sha256 != bundle.digest:
                raise ConflictError(
                    f"{manifest.model} {manifest.version} for {manifest.profile} was published "
                    "before with other bytes; give it a new version"
                )
            return
    blobs.register(session, tenant, bundle.digest, len(bundle.manifest_bytes), "manifest")
    variant = Variant(
        id=new_id(),
        tenant=tenant,
        release_id=release.id,
        profile=manifest.profile,
        manifest_sha256=bundle.digest,
        manifest_bytes=len(bundle.manifest_bytes),
        target_path=target_path(manifest),
        manifest=json.loads(bundle.manifest_bytes),
        measurements=_measurements(bundle),
    )
    session.add(variant)
    session.flush()
    shipped = {entry.role for entry in manifest.shipped()}
    for entry in manifest.files:
        blobs.register(session, tenant, entry.sha256, entry.bytes, "file")
        session.add(
            VariantFile(
                variant_id=variant.id,
                role=entry.role,
                tenant=tenant,
                path=entry.path,
                sha256=entry.sha256,
                bytes=entry.bytes,
                shipped=entry.role in shipped,
            )
        )


def _measurements(bundle: Bundle) -> Any:
    """Return measurements.json from beside the bundle if it is a sensible JSON object."""
    payload = bundle.neighbour("measurements.json")
    if payload is None:
        return None
    try:
        found = strict_json.loads(payload, max_bytes=MAXIMUM_MEASUREMENTS_BYTES)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _sign(
    server: Server,
    session: Session,
    tenant: str,
    release: Release,
    bundles: Sequence[Bundle],
    targets: bytes | None,
    by: audit.Actor,
) -> None:
    """Bring the new variants into force, by `targets`, as listed already, or with our own key."""
    repository = trust_state.repository_of(session, tenant)
    if targets is not None and targets != repository.targets_bytes:
        trust_state.accept_targets(server, session, tenant, targets)
        repository = trust_state.repository_of(session, tenant)
    mirror.targets(session, tenant, repository.targets, utcnow())
    unsigned = [variant.profile for variant in release.variants if not variant.signed]
    if targets is not None:
        sent = {bundle.manifest.profile for bundle in bundles}
        if missing := sorted(sent.intersection(unsigned)):
            raise RefusedError(f"the targets.json does not list the bundles for {missing}")
    elif unsigned and release.state != "withdrawn" and server.keystore(tenant).holds("targets"):
        releases.sign(server, session, release, by)
