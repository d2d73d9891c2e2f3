"""`event`: one step of one update, with its evidence."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from edgec_bundle.errors import MessageError
from edgec_bundle.messages._codec import JSON
from edgec_bundle.messages.message import Message, parse_rfc3339

MAX_EVIDENCE_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Message):
    """Device to server, one for each phase an update enters.

    (`boot_id`, `seq`) grows within one boot; `assignment` is the director's counter, 0 for
    what was done on the device itself. `evidence` is free JSON of at most 16 KiB.
    """

    KIND: ClassVar[str] = "event"
    MAX_BYTES: ClassVar[int] = 32 * 1024

    boot_id: str
    seq: int
    model: str
    manifest: str
    assignment: int
    phase: str
    previous_phase: str
    rollout: str | None = None
    reason: str | None = None
    evidence: Mapping[str, JSON] = field(default_factory=dict)

    def check(self) -> None:
        """Raise MessageError for what JSON Schema can't say."""
        parse_rfc3339(self.at)
        size = len(json.dumps(self.evidence, separators=(",", ":"), ensure_ascii=False).encode())
        if size > MAX_EVIDENCE_BYTES:
            raise MessageError(f"expected at most {MAX_EVIDENCE_BYTES} bytes of evidence")
