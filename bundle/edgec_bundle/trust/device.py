"""Decides what a device may install: only what release keys and director both say, and no older.

`verify_offer` takes bytes from strangers and the remembered state, and returns a verified offer
and the next state, or raises and changes nothing. In this order:

1. the chain of roots, from the remembered one; floors of roles whose keys were taken away fall;
2. timestamp, snapshot and targets, by `tuf.ngclient.Updater` over the offered metadata set;
3. the acceptance role's document, which the snapshot pins;
4. versions against our own floors, since the client forgets them when its cache is damaged;
5. the director's document: signature, addressee, counter;
6. expiry of everything, at the local clock or at the latest signed time, whichever is later;
7. every assigned target must be listed by the release keys with the same length and digest.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import (
    ExpiredError,
    MetadataError,
    NotForThisDeviceError,
    RollbackError,
    SignatureError,
    TrustError,
)
from edgec_bundle.trust.acceptance import AcceptanceSet, acceptance_sets
from edgec_bundle.trust.director import Assignment, parse_target_path, verify_assignment
from edgec_bundle.trust.metadata import (
    check_fresh,
    load,
    rollbacks_of,
    signed_at,
    signers_of,
    threshold_of,
    utc,
)
from edgec_bundle.trust.metadata_set import MetadataSet
from edgec_bundle.trust.release import MAX_TARGETS_BYTES, check_listed
from edgec_bundle.trust.root import MAX_ROOT_BYTES, follow_chain, open_root
from edgec_bundle.trust.state import Floor, TrustState

_CONFIG = UpdaterConfig(
    root_max_length=MAX_ROOT_BYTES,
    timestamp_max_length=16_384,
    snapshot_max_length=2_000_000,
    targets_max_length=MAX_TARGETS_BYTES,
)
_KINDS: Mapping[str, type[Any]] = MappingProxyType(
    {"timestamp": Timestamp, "snapshot": Snapshot, "targets": Targets, "acceptance": Targets}
)


@dataclass(frozen=True, slots=True)
class VerifiedTarget:
    """A release that this device may install: `sha256` is the manifest's, the bundle's identity."""

    path: str
    model: str
    version: str
    profile: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class VerifiedOffer:
    """What release keys, acceptance keys and director agree on for this device."""

    counter: int
    expires: datetime  # of the assignment
    targets: tuple[VerifiedTarget, ...]
    acceptance: Mapping[str, AcceptanceSet]  # by model
    rollbacks: frozenset[str]  # manifest digests that may replace newer releases

    def target(self, model: str) -> VerifiedTarget | None:
        """Return the release of `model`, None if none is assigned."""
        return next((target for target in self.targets if target.model == model), None)


def verify_offer(
    state: TrustState,
    *,
    director: bytes,
    metadata_set: bytes,
    tenant: str,
    device: str,
    now: datetime,
    profiles: Collection[str] | None = None,
    folder: Path | None = None,
) -> tuple[VerifiedOffer, TrustState]:
    """Return what this device may install, and what it must remember from now on.

    Args:
        state: remembered from the last offer.
        director: the director's signed document.
        metadata_set: of the image repository; the caller has matched it to its digest.
        tenant: of this device.
        device: this device's id.
        now: by the local clock, which is trusted only if later than the latest signed time.
        profiles: hardware profiles that this device accepts; None: the caller looks itself.
        folder: where to make a short-lived folder, by default the system's.

    Raises:
        MetadataError: malformed, too large, incomplete, or the parts don't fit together.
        SignatureError: not signed by enough of the right keys.
        RollbackError: a version or the counter is below what was seen before.
        ExpiredError: signed, but no longer valid.
        NotForThisDeviceError: made for another tenant, device or profile.
        WithdrawnError: the release keys don't list an assigned target with that digest.
        OSError: the short-lived folder can't be written.
    """
    offered = MetadataSet.from_bytes(metadata_set)
    root = follow_chain(state.root, offered.root)
    ground = _Ground(open_root(root), _standing(state, open_root(root)), utc(now))
    image = ground.refresh(root, state, offered, folder)
    floors = {role: ground.raised(role, payload) for role, payload in image.items()}
    assignment, floors["director"] = ground.assignment(director, state, tenant, device)
    time = ground.time([floor.time for floor in floors.values()])
    documents = {role: load(payload, _KINDS[role]).signed for role, payload in image.items()}
    _require_fresh({"root": ground.root, **documents}, assignment, time)
    remembered = TrustState(
        root=root,
        floors=MappingProxyType(floors),
        director_sha256=sha256_hex(director),
        **image,
    )
    return _offer(assignment, documents, profiles), remembered


def _require_fresh(documents: Mapping[str, Any], assignment: Assignment, time: datetime) -> None:
    for role, document in documents.items():
        check_fresh(document, role, time)
    if time >= assignment.expires:
        raise ExpiredError(f"assignment {assignment.counter} expired at {assignment.expires}")


def _offer(
    assignment: Assignment, documents: Mapping[str, Any], profiles: Collection[str] | None
) -> VerifiedOffer:
    """Return what genuine and fresh documents, by role, and the assignment agree on."""
    return VerifiedOffer(
        counter=assignment.counter,
        expires=assignment.expires,
        targets=_agreed(assignment, documents["targets"], profiles),
        acceptance=acceptance_sets(documents["acceptance"]),
        rollbacks=rollbacks_of(documents["targets"]),
    )


def check_release(
    offered_release: int, manifest_digest: str, floor_release: int, rollbacks: Collection[str]
) -> None:
    """Return if a release of a model may follow `floor_release`, the highest ever committed.

    Raises:
        RollbackError: it is lower, and the release keys allow no rollback to its digest.
    """
    if offered_release < floor_release and manifest_digest not in rollbacks:
        raise RollbackError(offered=offered_release, installed=floor_release)


def _standing(state: TrustState, root: Root) -> Mapping[str, Floor]:
    """Return the floors that `root` leaves standing."""
    return {role: floor for role, floor in state.floors.items() if floor.stands(root, role)}


def _agreed(
    assignment: Assignment, targets: Targets, profiles: Collection[str] | None
) -> tuple[VerifiedTarget, ...]:
    found = []
    for target in assignment.targets:
        path = parse_target_path(target.path)
        check_listed(targets, target.path, target.bytes, target.sha256)
        if profiles is not None and path.profile not in profiles:
            raise NotForThisDeviceError(f"{target.path} is for another hardware profile")
        found.append(
            VerifiedTarget(
                path=target.path,
                model=path.model,
                version=path.version,
                profile=path.profile,
                sha256=target.sha256,
                bytes=target.bytes,
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Ground:
    """What an offer is judged by: the newest root, the floors that stand, the local clock."""

    root: Root
    floors: Mapping[str, Floor]
    now: datetime

    def time(self, signed: Collection[datetime | None] = ()) -> datetime:
        """Return the latest of the local clock, the floors' times and those in `signed`."""
        floors = (floor.time for floor in self.floors.values())
        return max(time for time in (self.now, *floors, *signed) if time is not None)

    def refresh(
        self, root: bytes, state: TrustState, offered: MetadataSet, folder: Path | None
    ) -> dict[str, bytes]:
        """Return the verified documents by role, as bytes."""
        with tempfile.TemporaryDirectory(prefix="edgec-trust-", dir=folder) as name:
            cache = Path(name)
            for role in self._usable_cache(state):
                (cache / f"{role}.json").write_bytes(getattr(state, role))
            try:
                updater = Updater(
                    name, "set:/", fetcher=_SetFetcher(offered), config=_CONFIG, bootstrap=root
                )
                # The one place where tuf reads the clock. If a later version keeps its time
                # elsewhere this has no effect, and expiry is still checked again by verify_offer.
                updater._trusted_set.reference_time = self.time()
                updater.refresh()
                image = {
                    role: (cache / f"{role}.json").read_bytes()
                    for role in ("timestamp", "snapshot", "targets")
                }
                image["acceptance"] = self._acceptance(image["snapshot"], offered.acceptance)
            except (RepositoryError, DownloadError) as error:
                raise self._explain(error, offered) from error
        return image

    def _usable_cache(self, state: TrustState) -> Iterator[str]:
        """Yield the cached documents that the client may check the offer against.

        A snapshot pins versions of targets and acceptance. If such a role lost its keys, the
        pinned version may be the one a thief drove up, and is forgotten with its floor.
        """
        fell = state.floors.keys() - self.floors.keys()
        for role in ("timestamp", "snapshot", "targets"):
            if getattr(state, role) and not (
                role == "snapshot" and fell & {"targets", "acceptance"}
            ):
                yield role

    def _acceptance(self, snapshot: bytes, payload: bytes) -> bytes:
        pinned = load(snapshot, Snapshot).signed.meta.get("acceptance.json")
        if pinned is None:
            raise MetadataError("the snapshot doesn't pin the acceptance role's document")
        pinned.verify_length_and_hashes(payload)
        version = load(payload, Targets).signed.version
        if version != pinned.version:
            raise MetadataError(f"expected acceptance version {pinned.version}, got {version}")
        return payload

    def raised(self, role: str, payload: bytes) -> Floor:
        """Return the floor that the document in `payload` sets. Raises TrustError."""
        metadata: Metadata[Any] = load(payload, _KINDS[role])
        version = metadata.signed.version
        signers = signers_of(self.root, role, metadata)
        if len(signers) < threshold_of(self.root, role):
            raise SignatureError(f"{role}: not signed by enough keys that root names")
        before = self.floors.get(role)
        if before is not None and version < before.version:
            raise RollbackError(offered=version, installed=before.version, what=f"{role} version")
        time = signed_at(metadata.signed) if role == "timestamp" else None
        return Floor(version, signers, _later(before, time))

    def assignment(
        self, payload: bytes, state: TrustState, tenant: str, device: str
    ) -> tuple[Assignment, Floor]:
        """Return the assignment in `payload` and the floor it sets. Raises TrustError."""
        assignment = verify_assignment(self.root, payload)
        if (assignment.tenant, assignment.device) != (tenant, device):
            raise NotForThisDeviceError(
                f"assigned to {assignment.tenant}/{assignment.device}, not {tenant}/{device}"
            )
        before = self.floors.get("director")
        if before is not None:
            again = sha256_hex(payload) == state.director_sha256
            lowest = before.version if again else before.version + 1
            if assignment.counter < lowest:
                raise RollbackError(
                    offered=assignment.counter, installed=lowest, what="assignment counter"
                )
        signers = signers_of(self.root, "director", load(payload, Targets))
        return assignment, Floor(assignment.counter, signers, _later(before, assignment.issued))

    def _explain(self, error: Exception, offered: MetadataSet) -> TrustError:
        """Return the error of ours that says what the TUF client refused."""
        if isinstance(error, UnsignedMetadataError):
            return SignatureError(str(error))
        if isinstance(error, ExpiredMetadataError):
            return ExpiredError(str(error))
        for role, kind in _KINDS.items():
            floor = self.floors.get(role)
            claimed = _claimed_version(getattr(offered, role), kind)
            if floor is not None and claimed is not None and claimed < floor.version:
                return RollbackError(
                    offered=claimed, installed=floor.version, what=f"{role} version"
                )
        return MetadataError(str(error))


def _later(before: Floor | None, time: datetime | None) -> datetime | None:
    times = [one for one in (before.time if before else None, time) if one is not None]
    return max(times, default=None)


def _claimed_version(payload: bytes, kind: type[Any]) -> int | None:
    """Return which version an unverified document claims, to explain why it was refused."""
    try:
        metadata: Metadata[Any] = load(payload, kind)
    except MetadataError:
        return None
    version: int = metadata.signed.version
    return version


class _SetFetcher(FetcherInterface):
    """Serves the TUF client from a metadata set. Newer roots were followed before."""

    def __init__(self, offered: MetadataSet) -> None:
        self._offered = offered

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = urlsplit(url).path.removeprefix("/").removesuffix(".json")
        role = name.rpartition(".")[2]  # snapshot and targets come with their version in front
        if role not in ("timestamp", "snapshot", "targets"):
            raise DownloadHTTPError(f"{name} is not in the metadata set", 404)
        payload: bytes = getattr(self._offered, role)
        return iter([payload])
