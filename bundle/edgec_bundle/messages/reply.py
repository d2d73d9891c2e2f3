"""`reply`: the server's answer to one message of a device."""

from dataclasses import dataclass
from typing import ClassVar

from edgec_bundle.messages.message import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyError:
    """Why a request was refused: `code` for programs, `message` for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Message):
    """Server to device: what became of the message with id `re`."""

    KIND: ClassVar[str] = "reply"
    MAX_BYTES: ClassVar[int] = 16 * 1024

    re: str
    ok: bool
    error: ReplyError | None = None
