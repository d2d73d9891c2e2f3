"""The metadata set: everything of the image repository that a device needs, as one blob."""

import base64
import binascii
from dataclasses import dataclass
from typing import Self

import rfc8785

from edgec_bundle import strict_json
from edgec_bundle.errors import MetadataError
from edgec_bundle.trust.root import MAX_ROOTS

MAX_SET_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class MetadataSet:
    """The files of one consistent state of the image repository. Nothing in it is verified."""

    root: tuple[bytes, ...]  # every version, from 1
    timestamp: bytes
    snapshot: bytes
    targets: bytes
    acceptance: bytes

    def to_bytes(self) -> bytes:
        """Return the set as canonical JSON of base64 strings."""
        return rfc8785.dumps(
            {
                "root": [_encode(payload) for payload in self.root],
                "timestamp": _encode(self.timestamp),
                "snapshot": _encode(self.snapshot),
                "targets": _encode(self.targets),
                "acceptance": _encode(self.acceptance),
            }
        )

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Parse `payload`; the inverse of `to_bytes`. Names that it doesn't know are left out.

        Raises:
            MetadataError: too large, or not of that form.
        """
        try:
            raw = strict_json.loads(payload, max_bytes=MAX_SET_BYTES, max_depth=4)
        except ValueError as error:
            raise MetadataError(f"metadata set: {error}") from error
        match raw:
            case {
                "root": [*chain],
                "timestamp": str(timestamp),
                "snapshot": str(snapshot),
                "targets": str(targets),
                "acceptance": str(acceptance),
            } if len(chain) <= MAX_ROOTS:
                return cls(
                    tuple(_decode(item) for item in chain),
                    _decode(timestamp),
                    _decode(snapshot),
                    _decode(targets),
                    _decode(acceptance),
                )
        raise MetadataError("metadata set: expected root, timestamp, snapshot, targets, acceptance")


def _encode(payload: bytes) -> str:
    return base64.b64encode(payload).decode("ascii")


def _decode(text: object) -> bytes:
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise MetadataError("metadata set: expected base64")
