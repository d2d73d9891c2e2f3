"""Patches made ahead: from the versions that devices really run, the largest audience first.

The engine counts a release's audience when it is published, and again when a rollout of it
begins: the fleet has moved on by then. What devices need beyond that is asked for when they are
told. Counting is one grouped query; nothing here makes a patch.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from edgec_bundle.messages import SOURCE_ROLES
from edgec_fleet.db import Database
from edgec_fleet.db.schema import Device, Release, Variant, utcnow
from edgec_fleet.registry import patches

MOST_PAIRS = 16  # of files, that patches are made ahead for, for one release
_RELEASES = 20  # counted in one step


@dataclass(frozen=True, slots=True)
class Audience:
    """Devices that run the same files and take the same patches."""

    files: Mapping[str, str]  # role -> digest of what they run
    profiles: tuple[str, ...]  # preferred first
    formats: tuple[str, ...]
    devices: int


@dataclass(frozen=True, slots=True)
class Need:
    """A pair of files, and the devices that would go from the one to the other."""

    base: str
    new: str
    formats: frozenset[tuple[str, ...]]  # what each kind of device takes
    devices: int


def step(db: Database) -> int:
    """Queue patches for every release whose audience is to be counted; return for how many."""
    due = (
        select(Release.id)
        .where(Release.state == "published", Release.audience_at.is_(None))
        .order_by(Release.published_at, Release.id)
        .limit(_RELEASES)
    )
    with db.read() as session:
        ids = session.scalars(due).all()
        found = {release: _needs_of(session, session.get_one(Release, release)) for release in ids}
    for release_id, needs in found.items():
        with db.write() as session:
            release = session.get_one(Release, release_id, with_for_update=True)
            for need in needs:
                for formats in sorted(need.formats):
                    patches.ask(
                        session,
                        release.tenant,
                        need.base,
                        need.new,
                        formats,
                        waits=False,
                        audience=need.devices,
                    )
            release.audience_at = utcnow()
    return len(found)


def _needs_of(session: Session, release: Release) -> list[Need]:
    files = {
        variant.profile: {
            file.role: file.sha256
            for file in variant.files
            if file.shipped
            and file.role in SOURCE_ROLES
            and file.bytes >= patches.WORTH_A_PATCH_BYTES
        }
        for variant in session.scalars(select(Variant).where(Variant.release_id == release.id))
        if variant.signed
    }
    return needs(audiences(session, release.tenant, release.model), files)


def audiences(session: Session, tenant: str, model: str) -> list[Audience]:
    """Return who runs what of `model`, as the devices of `tenant` last reported it."""
    runs = Device.models[(model, "active", "files")].label("files")
    means = [Device.hello[key].label(key) for key in ("delta_formats", "memory_bytes")]
    each = (
        select(runs, Device.profiles, *means)
        .where(Device.tenant == tenant, Device.revoked_at.is_(None))
        .subquery()
    )
    kinds = select(*each.c, func.count().label("devices")).group_by(*each.c)
    found = []
    for row in session.execute(kinds):
        formats = patches.formats_for(row.delta_formats, row.memory_bytes)
        if isinstance(row.files, dict) and formats:
            found.append(Audience(row.files, tuple(row.profiles or ()), formats, row.devices))
    return found


def needs(
    found: Sequence[Audience], files: Mapping[str, Mapping[str, str]], most: int = MOST_PAIRS
) -> list[Need]:
    """Return the pairs of files that most devices would go between, largest audience first.

    Args:
        found: who runs what.
        files: the new release's, profile -> role -> digest.
        most: how many pairs at most.
    """
    devices: dict[tuple[str, str], int] = defaultdict(int)
    formats: dict[tuple[str, str], set[tuple[str, ...]]] = defaultdict(set)
    for one in found:
        for pair in _pairs(one, files):
            devices[pair] += one.devices
            formats[pair].add(one.formats)
    largest = sorted(devices, key=lambda pair: (-devices[pair], pair))[:most]
    return [
        Need(base, new, frozenset(formats[base, new]), devices[base, new]) for base, new in largest
    ]


def _pairs(
    audience: Audience, files: Mapping[str, Mapping[str, str]]
) -> Collection[tuple[str, str]]:
    """Return the files that the devices would replace, by the first profile that they accept."""
    profile = next((name for name in audience.profiles if name in files), None)
    wanted = files[profile] if profile is not None else {}
    return {
        (base, wanted[role])
        for role, base in audience.files.items()
        if role in wanted and base != wanted[role]
    }
