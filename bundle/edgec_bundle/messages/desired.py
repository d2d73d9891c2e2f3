"""`desired`: what a device shall run, and where the bytes come from. Retained.

The director's document and the metadata it needs are proof; all else here is advice on how to
fetch, which a device must never take for proof.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from edgec_bundle.messages.message import Message

SOURCE_ROLES = ("manifest", "model", "labels", "golden", "metadata", "acceptance")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobRef:
    """A blob by its digest and size."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchSource:
    """A patch that makes the wanted blob out of the blob with digest `base`."""

    base: str
    sha256: str  # of the patch
    bytes: int  # of the patch
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A blob that the device will want, and the patches that lead to it.

    `role` is one of SOURCE_ROLES; a device leaves out the roles that it doesn't know.
    """

    sha256: str
    bytes: int
    model: str
    role: str
    patches: tuple[PatchSource, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired(Message):
    """Server to device, retained."""

    KIND: ClassVar[str] = "desired"
    MAX_BYTES: ClassVar[int] = 1024 * 1024

    director: bytes  # the signed document of the director (base64 on the wire)
    metadata: BlobRef  # the image repository's metadata set
    sources: tuple[Source, ...] = ()
    block_bytes: int = 128 * 1024
    http: str | None = None  # base URL of the device HTTPS listener
    rollouts: Mapping[str, str] = field(default_factory=dict)  # model -> rollout id
