"""`state`: which version of each model a device has, retained, and its last will."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from edgec_bundle.messages.message import Message

PHASES = (
    "idle",
    "offered",
    "fetching",
    "patching",
    "verifying",
    "testing",
    "staged",
    "shadow",
    "probation",
    "committed",
    "rejected",  # not for this device, or incompatible: not retried
    "failed",  # retried with backoff
    "rolled_back",
)
FINAL_PHASES = frozenset({"committed", "rejected", "failed", "rolled_back"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """One release of a model as it lies on the device."""

    manifest: str  # digest: the identity of the bundle
    version: str
    release: int
    files: Mapping[str, str]  # role -> sha256: the bases that patches may start from


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """What a device serves of one model, and how far an update of it has come.

    `phase` is one of PHASES; who receives another one treats it as work in progress.
    """

    active: Deployed | None = None
    previous: Deployed | None = None
    phase: str = "idle"
    candidate: str | None = None  # digest of the manifest being installed
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State(Message):
    """Device to server, retained; with ``online=False`` also the last will."""

    KIND: ClassVar[str] = "state"
    MAX_BYTES: ClassVar[int] = 64 * 1024

    boot_id: str
    online: bool
    models: Mapping[str, ModelState] = field(default_factory=dict)
