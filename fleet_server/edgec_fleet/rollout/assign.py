"""What a device is told to run: one row per counter, all its models together.

The engine writes what is wanted; signing and sending it is the gateway's work.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from edgec_bundle.errors import MetadataError
from edgec_bundle.trust.director import parse_target_path
from edgec_fleet.db.schema import Assignment, Device, DeviceEvent, Release, Variant


def variant_for(
    session: Session, release_id: str, profiles: Sequence[str]
) -> tuple[Variant | None, str]:
    """Return the release's signed variant for the first of `profiles` that it has.

    Returns:
        The variant, or None with the reason in words.
    """
    variants = {
        variant.profile: variant
        for variant in session.scalars(select(Variant).where(Variant.release_id == release_id))
        if variant.signed
    }
    for profile in profiles:
        if profile in variants:
            return variants[profile], f"variant {profile}"
    accepts = ", ".join(profiles) or "no profile"
    return None, f"the device accepts {accepts}; the release has {', '.join(sorted(variants))}"


def latest(session: Session, device_id: str) -> Assignment | None:
    """Return the device's newest assignment."""
    return session.scalar(
        select(Assignment)
        .where(Assignment.device_id == device_id)
        .order_by(Assignment.counter.desc())
        .limit(1)
    )


def tell(
    session: Session,
    device_id: str,
    model: str,
    variant: Variant | None,
    rollout_id: str | None,
    now: datetime,
    why: str,
) -> Assignment:
    """Tell the device to run `variant` of `model` (None: the server wants nothing of it).

    Its other models stay as they were told before, unless their release was withdrawn since:
    a device refuses an assignment that names what is no longer signed.
    """
    device = lock_device(session, device_id)
    before = latest(session, device_id)
    targets = {} if before is None else _still_signed(session, device.tenant, before)
    rollouts = dict(before.rollouts) if before is not None else {}
    targets.pop(model, None)
    rollouts.pop(model, None)
    if variant is not None:
        targets[model] = {
            "path": variant.target_path,
            "sha256": variant.manifest_sha256,
            "bytes": variant.manifest_bytes,
        }
        if rollout_id is not None:
            rollouts[model] = rollout_id
    return _write(session, device, targets, rollouts, now, model, variant, rollout_id, why)


def renew(session: Session, device_id: str, now: datetime, why: str) -> Assignment | None:
    """Give the device's newest assignment a new counter, to be signed anew."""
    device = lock_device(session, device_id)
    before = latest(session, device_id)
    if before is None:
        return None
    targets = _still_signed(session, device.tenant, before)
    return _write(session, device, targets, before.rollouts, now, None, None, None, why)


def lock_device(session: Session, device_id: str) -> Device:
    """Return the device's row, locked until the transaction ends."""
    return session.scalars(
        select(Device)
        .where(Device.id == device_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()


def names(assignment: Assignment | None, manifest_sha256: str) -> bool:
    """Return whether `assignment` names this manifest."""
    return assignment is not None and any(
        target["sha256"] == manifest_sha256 for target in assignment.targets
    )


def _write(
    session: Session,
    device: Device,
    targets: dict[str, dict[str, Any]],
    rollouts: dict[str, str],
    now: datetime,
    model: str | None,
    variant: Variant | None,
    rollout_id: str | None,
    why: str,
) -> Assignment:
    session.execute(
        update(Assignment)
        .where(Assignment.device_id == device.id, Assignment.superseded_at.is_(None))
        .values(superseded_at=now)
    )
    device.counter += 1
    assignment = Assignment(
        device_id=device.id,
        counter=device.counter,
        tenant=device.tenant,
        targets=[targets[name] for name in sorted(targets)],
        rollouts=dict(rollouts),
        created_at=now,
    )
    session.add(assignment)
    session.add(
        DeviceEvent(
            tenant=device.tenant,
            device_id=device.id,
            at=now,
            kind="assigned",
            model=model,
            manifest_sha256=variant.manifest_sha256 if variant else None,
            counter=device.counter,
            rollout_id=rollout_id,
            reason=why,
        )
    )
    session.flush()
    return assignment


def _still_signed(session: Session, tenant: str, before: Assignment) -> dict[str, dict[str, Any]]:
    """Return the targets of `before` by model, without those of withdrawn releases."""
    digests = [target["sha256"] for target in before.targets]
    signed = set(
        session.scalars(
            select(Variant.manifest_sha256)
            .join(Release, Release.id == Variant.release_id)
            .where(
                Variant.tenant == tenant,
                Variant.manifest_sha256.in_(digests),
                Variant.signed.is_(True),
                Release.state == "published",
            )
        )
    )
    kept = {}
    for target in before.targets:
        try:
            if target["sha256"] in signed:
                kept[parse_target_path(target["path"]).model] = dict(target)
        except MetadataError:  # not one of ours: nothing that a device would take
            continue
    return kept


def running(device: Device, model: str) -> str | None:
    """Return the digest of the manifest that the device last reported as active."""
    reported = (device.models or {}).get(model) or {}
    active = reported.get("active") or {}
    digest = active.get("manifest")
    return digest if isinstance(digest, str) else None


def running_variant(session: Session, device: Device, model: str) -> Variant | None:
    """Return the signed variant that the device last reported as active, if it is ours."""
    return _known(session, device.tenant, running(device, model))


def previous_variant(session: Session, device: Device, model: str) -> Variant | None:
    """Return the signed variant that the device keeps as the one before, if it is ours."""
    reported = (device.models or {}).get(model) or {}
    digest = (reported.get("previous") or {}).get("manifest")
    return _known(session, device.tenant, digest if isinstance(digest, str) else None)


def _known(session: Session, tenant: str, digest: str | None) -> Variant | None:
    if digest is None:
        return None
    return session.scalar(
        select(Variant).where(
            Variant.tenant == tenant,
            Variant.manifest_sha256 == digest,
            Variant.signed.is_(True),
        )
    )
