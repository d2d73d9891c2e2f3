"""What the global search finds: devices, releases and rollouts of one tenant."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from edgec_fleet.db.schema import Device, Release, Rollout, Variant


def search(session: Session, tenant: str, text: str, limit: int = 10) -> dict[str, Sequence[Any]]:
    """Return devices, releases and rollouts that `text` names or begins."""
    return {
        "devices": session.scalars(
            select(Device)
            .where(Device.tenant == tenant, Device.id.contains(text, autoescape=True))
            .order_by(Device.id)
            .limit(limit)
        ).all(),
        "releases": session.scalars(
            select(Release)
            .join(Variant, Variant.release_id == Release.id)
            .where(
                Release.tenant == tenant,
                or_(
                    Release.model.contains(text, autoescape=True),
                    Release.version.startswith(text, autoescape=True),
                    Variant.manifest_sha256.startswith(text.lower(), autoescape=True),
                ),
            )
            .distinct()
            .order_by(Release.model, Release.number.desc())
            .limit(limit)
        ).all(),
        "rollouts": session.scalars(
            select(Rollout)
            .where(
                Rollout.tenant == tenant,
                or_(
                    Rollout.id.startswith(text, autoescape=True),
                    Rollout.model.contains(text, autoescape=True),
                ),
            )
            .order_by(Rollout.created_at.desc())
            .limit(limit)
        ).all(),
    }
