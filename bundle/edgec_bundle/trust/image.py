"""The image repository: which releases are genuine, as files that any TUF client can read.

A value of `ImageRepository` is one state of it; each operation returns the next one and touches
no disk. The caller stores `files`, and serializes changes. Nobody needs the release or the
acceptance key here: finished documents come in through `accept_targets` and `accept_acceptance`,
are verified as a device would, and go out with the next `publish`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Self

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from edgec_bundle.errors import MetadataError, RollbackError, TrustError, WithdrawnError
from edgec_bundle.trust.acceptance import AcceptanceSet, acceptance_sets
from edgec_bundle.trust.acceptance import next_acceptance as draft_acceptance
from edgec_bundle.trust.metadata import (
    FIELD,
    check_fresh,
    format_time,
    load,
    sign,
    signed_at,
    utc,
    verify,
)
from edgec_bundle.trust.metadata_set import MetadataSet
from edgec_bundle.trust.release import next_targets as draft_targets
from edgec_bundle.trust.root import MAX_ROOTS, follow, open_root

TIMESTAMP = "timestamp.json"

_NAME = re.compile(r"([1-9][0-9]{0,15})\.(root|snapshot|targets|acceptance)\.json")
_PINNED = ("acceptance", "targets")  # signed elsewhere, pinned by the snapshot
_KEPT = 2  # versions of each document, so that a reader in between finds what it was told of


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long what is signed here stays valid, and how often it is renewed."""

    snapshot: timedelta = timedelta(days=30)
    timestamp: timedelta = timedelta(days=7)
    renew: timedelta = timedelta(days=1)  # age of a timestamp from which `is_due` says so


def jump_version(issued: int, now: datetime) -> int:
    """Return a version that is past `issued` and past all that was issued since a backup.

    Versions grow by one for each change, far less than once a second, so the seconds since 1970
    lie past every one of them. Director counters jump the same way.
    """
    return max(issued + 1, int(now.timestamp()))


@dataclass(frozen=True, slots=True)
class ImageRepository:
    """One state of the image repository: the content of each file, by name.

    Names are those of TUF's consistent snapshots: ``1.root.json``, ``7.snapshot.json``,
    ``timestamp.json``; beside them ``3.acceptance.json``.
    """

    files: Mapping[str, bytes]
    lifetimes: Lifetimes = field(default_factory=Lifetimes)

    @classmethod
    def create(cls, root: bytes, lifetimes: Lifetimes | None = None) -> Self:
        """Return a repository that holds nothing but the signed first `root`.

        Raises:
            TrustError: `root` is malformed, not signed by itself, or not version 1.
        """
        if open_root(root).version != 1:
            raise MetadataError("expected version 1 of root")
        return cls(MappingProxyType({"1.root.json": root}), lifetimes or Lifetimes())

    @property
    def roots(self) -> tuple[bytes, ...]:
        """Every version of root, from 1."""
        found: list[bytes] = []
        while (name := f"{len(found) + 1}.root.json") in self.files:
            found.append(self.files[name])
        return tuple(found)

    @property
    def root(self) -> Root:
        """The newest root."""
        chain = self.roots
        if not chain:
            raise MetadataError("the repository holds no root")
        return load(chain[-1], Root).signed

    @property
    def targets_bytes(self) -> bytes | None:
        """The newest accepted targets.json, None before the first."""
        return self._newest("targets")

    @property
    def acceptance_bytes(self) -> bytes | None:
        """The newest accepted acceptance.json, None before the first."""
        return self._newest("acceptance")

    @property
    def targets(self) -> Mapping[str, TargetFile]:
        """What the newest accepted targets.json lists, by path."""
        payload = self.targets_bytes
        return {} if payload is None else load(payload, Targets).signed.targets

    @property
    def acceptance(self) -> Mapping[str, AcceptanceSet]:
        """The acceptance sets in force, by model."""
        payload = self.acceptance_bytes
        return {} if payload is None else acceptance_sets(load(payload, Targets).signed)

    def _newest(self, role: str) -> bytes | None:
        versions = self._versions(role)
        return self.files[f"{versions[-1]}.{role}.json"] if versions else None

    def _versions(self, role: str) -> list[int]:
        names = filter(None, map(_NAME.fullmatch, self.files))
        return sorted(int(name[1]) for name in names if name[2] == role)

    def _with(self, files: Mapping[str, bytes]) -> Self:
        return replace(self, files=MappingProxyType({**self.files, **files}))

    def add_root(self, payload: bytes) -> Self:
        """Return the repository with a next version of root: rotated keys.

        What keys that are now gone have signed must be signed again before the next `publish`.

        Raises:
            TrustError: not the next version, or not signed by the root keys of both.
        """
        root = follow(self.root, payload)
        if root.version > MAX_ROOTS:
            raise MetadataError(f"expected at most {MAX_ROOTS} versions of root")
        return self._with({f"{root.version}.root.json": payload})

    def next_targets(
        self,
        *,
        expires: datetime,
        add: Iterable[bytes] = (),
        withdraw: Iterable[str] = (),
        allow_rollback: Iterable[str] = (),
        version: int | None = None,
    ) -> Metadata[Targets]:
        """Return the unsigned next targets.json; see `release.next_targets`."""
        return draft_targets(
            self.targets_bytes,
            expires=expires,
            add=add,
            withdraw=withdraw,
            allow_rollback=allow_rollback,
            version=version,
        )

    def accept_targets(
        self, payload: bytes, *, now: datetime, withdrawn: Iterable[str] = ()
    ) -> Self:
        """Return the repository with a finished targets.json, wherever it was signed.

        Raises:
            TrustError: malformed, not signed by the release keys, or expired at `now`.
            RollbackError: not newer than the one in force.
            WithdrawnError: it loses or changes a release that isn't in `withdrawn`.
        """
        return self._accept("targets", payload, now, frozenset(withdrawn))

    def next_acceptance(
        self,
        changes: Mapping[str, AcceptanceSet | None],
        *,
        expires: datetime,
        version: int | None = None,
    ) -> Metadata[Targets]:
        """Return the unsigned next acceptance.json; see `acceptance.next_acceptance`."""
        return draft_acceptance(self.acceptance_bytes, changes, expires=expires, version=version)

    def accept_acceptance(self, payload: bytes, *, now: datetime) -> Self:
        """Return the repository with a finished acceptance.json, wherever it was signed.

        Raises:
            TrustError: malformed, not signed by the acceptance keys, or expired at `now`.
            RollbackError: not newer than the one in force.
        """
        acceptance_sets(verify(self.root, "acceptance", payload, Targets))
        return self._accept("acceptance", payload, now, None)

    def _accept(
        self, role: str, payload: bytes, now: datetime, removable: frozenset[str] | None
    ) -> Self:
        """Store a finished document; `removable` None: any entry may go or change."""
        document = verify(self.root, role, payload, Targets)
        check_fresh(document, role, now)
        current = self._newest(role)
        if current is not None:
            before = load(current, Targets).signed
            if document.version <= before.version:
                raise RollbackError(
                    offered=document.version, installed=before.version + 1, what=f"{role} version"
                )
            highest = jump_version(before.version, now)
            if document.version > highest:
                raise MetadataError(f"{role}: expected a version of at most {highest}")
            for path, target in before.targets.items():
                kept = document.targets.get(path) == target
                if removable is not None and not kept and path not in removable:
                    raise WithdrawnError(f"{path} would be lost or changed; withdraw it first")
        return self._with({f"{document.version}.{role}.json": payload})

    def publish(
        self, *, snapshot: Signer, timestamp: Signer, now: datetime, restored: bool = False
    ) -> Self:
        """Return the repository with all accepted documents pinned and signed anew.

        Args:
            snapshot: signer of the snapshot role.
            timestamp: signer of the timestamp role.
            now: by the server's clock.
            restored: jump past every version that may have been issued since the backup.

        Raises:
            TrustError: targets or acceptance are missing, expired or signed by keys that are
                gone, or a signer isn't the one that root names.
        """
        root = self.root
        check_fresh(root, "root", now)
        files = {}
        number, pinned = self._pinned_snapshot() or (0, b"")
        meta = {f"{role}.json": self._pin(role, root, now) for role in _PINNED}
        if restored or not self._still_good(pinned, root, meta, now):
            number = jump_version(number, now) if restored else number + 1
            pinned = self._sign_snapshot(root, number, meta, snapshot, now)
            files[f"{number}.snapshot.json"] = pinned
        files[TIMESTAMP] = self._sign_timestamp(
            root, MetaFile.from_data(number, pinned, ["sha256"]), timestamp, now, restored
        )
        return self._with(files)._pruned()

    def _pin(self, role: str, root: Root, now: datetime) -> MetaFile:
        payload = self._newest(role)
        if payload is None:
            raise MetadataError(f"nothing can be published before the first {role}.json")
        document = verify(root, role, payload, Targets)
        check_fresh(document, role, now)
        return MetaFile.from_data(document.version, payload, ["sha256"])

    def _pinned_snapshot(self) -> tuple[int, bytes] | None:
        if TIMESTAMP not in self.files:
            return None
        number = load(self.files[TIMESTAMP], Timestamp).signed.snapshot_meta.version
        return number, self._file(f"{number}.snapshot.json")

    def _still_good(
        self, payload: bytes, root: Root, meta: Mapping[str, MetaFile], now: datetime
    ) -> bool:
        try:
            document = verify(root, "snapshot", payload, Snapshot)
        except TrustError:
            return False
        return document.meta == meta and document.expires - now > self.lifetimes.snapshot / 2

    def _sign_snapshot(
        self, root: Root, number: int, meta: dict[str, MetaFile], signer: Signer, now: datetime
    ) -> bytes:
        expires = utc(now) + self.lifetimes.snapshot
        payload = sign(Metadata(Snapshot(version=number, expires=expires, meta=meta)), signer)
        verify(root, "snapshot", payload, Snapshot)
        return payload

    def _sign_timestamp(
        self, root: Root, pinned: MetaFile, signer: Signer, now: datetime, restored: bool
    ) -> bytes:
        issued = 0
        if TIMESTAMP in self.files:
            issued = load(self.files[TIMESTAMP], Timestamp).signed.version
        document = Timestamp(
            version=jump_version(issued, now) if restored else issued + 1,
            expires=utc(now) + self.lifetimes.timestamp,
            snapshot_meta=pinned,
            unrecognized_fields={FIELD: {"signed_at": format_time(now)}},
        )
        payload = sign(Metadata(document), signer)
        verify(root, "timestamp", payload, Timestamp)
        return payload

    def _pruned(self) -> Self:
        old = {
            f"{version}.{role}.json"
            for role in ("snapshot", *_PINNED)
            for version in self._versions(role)[:-_KEPT]
        }
        kept = {name: payload for name, payload in self.files.items() if name not in old}
        return replace(self, files=MappingProxyType(kept))

    def _file(self, name: str) -> bytes:
        try:
            return self.files[name]
        except KeyError:
            raise MetadataError(f"the repository has lost {name}") from None

    def awaited(self, now: datetime) -> tuple[str, ...]:
        """Return the roles that must sign a document before the next `publish` can succeed.

        Their document is missing, has expired, or was signed by keys that root no longer names:
        after `add_root` with a new release key, ``("targets",)`` until it is signed anew. What was
        published before stays in force meanwhile.
        """
        root, found = self.root, []
        for role in _PINNED:
            try:
                self._pin(role, root, now)
            except TrustError:
                found.append(role)
        return tuple(found)

    def is_due(self, now: datetime) -> bool:
        """Return whether `publish` has something to do: changes, or a timestamp growing old."""
        pinned = self._pinned_snapshot()
        if pinned is None:
            return True
        listed = load(pinned[1], Snapshot).signed.meta
        if any(listed[f"{role}.json"].version != self._versions(role)[-1] for role in _PINNED):
            return True
        try:
            document = verify(self.root, "timestamp", self.files[TIMESTAMP], Timestamp)
            verify(self.root, "snapshot", pinned[1], Snapshot)
        except TrustError:  # a rotated key
            return True
        return now >= signed_at(document) + self.lifetimes.renew

    def expiries(self) -> Mapping[str, datetime]:
        """Return until when root and each accepted document are valid, to warn in time."""
        found = {"root": self.root.expires}
        for role in _PINNED:
            if (payload := self._newest(role)) is not None:
                found[role] = load(payload, Targets).signed.expires
        return found

    def metadata_set(self) -> bytes:
        """Return what was last published as one blob for devices.

        Raises:
            MetadataError: nothing was published yet, or a file is missing.
            SignatureError: root was replaced and nothing published since.
        """
        pinned = self._pinned_snapshot()
        if pinned is None:
            raise MetadataError("nothing was published yet")
        verify(self.root, "timestamp", self.files[TIMESTAMP], Timestamp)
        meta = verify(self.root, "snapshot", pinned[1], Snapshot).meta
        targets, acceptance = (
            self._file(f"{meta[f'{role}.json'].version}.{role}.json")
            for role in ("targets", "acceptance")
        )
        verify(self.root, "targets", targets, Targets)
        verify(self.root, "acceptance", acceptance, Targets)
        return MetadataSet(
            root=self.roots,
            timestamp=self.files[TIMESTAMP],
            snapshot=pinned[1],
            targets=targets,
            acceptance=acceptance,
        ).to_bytes()
