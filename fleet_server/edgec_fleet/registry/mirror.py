"""Repeats in the tables what the signed documents say, so that pages and rollouts can ask SQL."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload
from tuf.api.metadata import TargetFile

from edgec_bundle.trust.acceptance import AcceptanceSet
from edgec_fleet.db.schema import Model, Release


def targets(session: Session, tenant: str, listed: Mapping[str, TargetFile], now: datetime) -> None:
    """Mark each variant as signed or not, and move releases between their states."""
    releases = session.scalars(
        select(Release).where(Release.tenant == tenant).options(selectinload(Release.variants))
    )
    for release in releases:
        for variant in release.variants:
            target = listed.get(variant.target_path)
            signed = target is not None and target.hashes.get("sha256") == variant.manifest_sha256
            if signed and not variant.signed:
                release.audience_at = None  # patches to it may be made ahead
            variant.signed = signed
        in_force = any(variant.signed for variant in release.variants)
        if in_force and release.state != "published":
            release.state, release.published_at = "published", release.published_at or now
            release.withdrawn_at = release.withdrawn_reason = None
        elif not in_force and release.state == "published":
            release.state, release.withdrawn_at = "withdrawn", now
    session.flush()


def acceptance(session: Session, tenant: str, sets: Mapping[str, AcceptanceSet]) -> None:
    """Repeat the acceptance set in force on each model, and none on the others."""
    models = {
        model.name: model for model in session.scalars(select(Model).where(Model.tenant == tenant))
    }
    for name in sets.keys() - models.keys():
        models[name] = Model(tenant=tenant, name=name)
        session.add(models[name])
    for name, model in models.items():
        found = sets.get(name)
        model.acceptance_sha256 = found.sha256 if found else None
        model.acceptance_bytes = found.bytes if found else None
        model.acceptance_minimum = found.minimum if found else None
        model.acceptance_metric = found.metric if found else None
    session.flush()
