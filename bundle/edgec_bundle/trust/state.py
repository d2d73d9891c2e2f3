"""What a device remembers of all that it ever trusted, as bytes for one cell of its database."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Self

import rfc8785
from tuf.api.metadata import Root

from edgec_bundle import strict_json
from edgec_bundle.digest import is_digest
from edgec_bundle.errors import MetadataError
from edgec_bundle.trust.metadata import (
    MAX_VERSION,
    format_time,
    keyids_of,
    names_role,
    parse_time,
    threshold_of,
)
from edgec_bundle.trust.root import open_root

FLOOR_ROLES = ("timestamp", "snapshot", "targets", "acceptance", "director")

_MAX_STATE_BYTES = 32 * 1024 * 1024
_KEYID = re.compile(r"[\x20-\x7e]{1,128}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Floor:
    """The highest version of a role's document ever accepted, and whose keys vouched for it.

    `time` is the latest time that the role has signed for, None if it signs for none.
    """

    version: int
    signers: tuple[str, ...]  # ids of the keys
    time: datetime | None = None

    def stands(self, root: Root, role: str) -> bool:
        """Return whether the keys behind this floor would still be enough under `root`.

        If not, root has taken the role away from them: a version or a time that a thief drove
        up is forgotten (recovery from a fast-forward attack). Nothing older can come back that
        way, since what those keys signed is no longer valid either.
        """
        if not names_role(root, role):
            return True
        return len(keyids_of(root, role) & {*self.signers}) >= threshold_of(root, role)


@dataclass(frozen=True, slots=True)
class TrustState:
    """Everything a device must remember to refuse what is old, foreign or forged.

    `root` and `floors` are the proof; the cached documents let the TUF client check for itself
    once more, and losing them loses no protection.
    """

    root: bytes
    timestamp: bytes = b""
    snapshot: bytes = b""
    targets: bytes = b""
    acceptance: bytes = b""
    floors: Mapping[str, Floor] = field(default_factory=lambda: MappingProxyType({}))
    director_sha256: str | None = None  # of the document with the highest counter

    @classmethod
    def initial(cls, root: bytes) -> Self:
        """Return the state of a device that trusts `root` and has seen nothing else.

        Raises:
            TrustError: `root` is malformed or not signed by itself.
        """
        open_root(root)
        return cls(root)

    @property
    def time_floor(self) -> datetime:
        """The latest authentic time: whatever the local clock says, it is not earlier."""
        return max((floor.time or _EPOCH for floor in self.floors.values()), default=_EPOCH)

    def floor(self, role: str) -> int:
        """Return the lowest acceptable version of `role`, 0 if none was seen."""
        return self.floors[role].version if role in self.floors else 0

    def to_bytes(self) -> bytes:
        """Return the state as canonical JSON."""
        documents = {name: _encode(getattr(self, name)) for name in _DOCUMENTS}
        floors = {
            role: {
                "version": floor.version,
                "signers": list(floor.signers),
                "time": None if floor.time is None else format_time(floor.time),
            }
            for role, floor in self.floors.items()
        }
        return rfc8785.dumps(
            {"v": 1, "floors": floors, "director_sha256": self.director_sha256, **documents}
        )

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Parse `payload`; the inverse of `to_bytes`.

        Raises:
            MetadataError: damaged. A device must not go on with an empty state instead.
        """
        try:
            raw = strict_json.loads(payload, max_bytes=_MAX_STATE_BYTES, max_depth=5)
        except ValueError as error:
            raise MetadataError(f"trust state: {error}") from error
        match raw:
            case {
                "v": 1,
                "floors": dict(floors),
                "director_sha256": str() | None as sha256,
                **rest,
            }:
                if sha256 is not None and not is_digest(sha256):
                    raise MetadataError("trust state: malformed digest")
                documents = {name: _decode(rest.get(name)) for name in _DOCUMENTS}
                known = {str(role): _read_floor(role, floor) for role, floor in floors.items()}
                return cls(floors=MappingProxyType(known), director_sha256=sha256, **documents)
        raise MetadataError("trust state: expected version 1 of it")


_DOCUMENTS = ("root", "timestamp", "snapshot", "targets", "acceptance")


def _read_floor(role: object, raw: object) -> Floor:
    match raw:
        case {"version": int(version), "signers": [*signers], "time": time} if (
            role in FLOOR_ROLES
            and type(version) is int
            and 0 < version <= MAX_VERSION
            and all(isinstance(item, str) and _KEYID.fullmatch(item) for item in signers)
        ):
            return Floor(version, tuple(signers), None if time is None else parse_time(time))
    raise MetadataError("trust state: malformed floor")


def _encode(payload: bytes) -> str:
    return base64.b64encode(payload).decode("ascii")


def _decode(text: object) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise MetadataError("trust state: expected base64")
