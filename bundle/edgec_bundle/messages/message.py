"""What all messages share: version, identity, and the way to bytes and back."""

import dataclasses
import re
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Self

from edgec_bundle.errors import MessageError
from edgec_bundle.messages._codec import build, check_schema, dump_object, load_object, plain

VERSION = 1  # of the wire; within it fields are only ever added

_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def new_id() -> str:
    """Return a fresh message id: a random UUID, 32 hexadecimal characters."""
    return uuid.uuid4().hex


def rfc3339(moment: datetime) -> str:
    """Return the aware `moment` in UTC, to the second, as in ``2026-11-23T04:45:00Z``."""
    if moment.tzinfo is None:
        raise ValueError("expected a datetime with a time zone")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_rfc3339(text: str) -> datetime:
    """Return the aware UTC datetime of `text`; the inverse of `rfc3339`.

    Raises:
        MessageError: not of that form, or no such day or time.
    """
    try:
        if _RFC3339.fullmatch(text):
            return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        pass
    raise MessageError("expected a time like 2026-11-23T04:45:00Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of the wire.

    `id` makes handling idempotent: brokers deliver QoS 1 messages more than once. `at` is the
    sender's clock, and nobody may rely on it.
    """

    KIND: ClassVar[str]
    MAX_BYTES: ClassVar[int]

    at: str  # RFC 3339, UTC, seconds
    id: str = field(default_factory=new_id)

    def to_bytes(self) -> bytes:
        """Return the message as UTF-8 JSON.

        Raises:
            MessageError: a field breaks the schema of the kind, or the whole is too large.
        """
        raw = {"v": VERSION, **{f.name: plain(getattr(self, f.name)) for f in _fields(self)}}
        payload = dump_object(raw, self.MAX_BYTES)
        check_schema(self.KIND, raw)
        self.check()
        return payload

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Parse `payload`; the inverse of `to_bytes`. Fields it doesn't know are left out.

        Raises:
            MessageError: too large, not JSON, of another version, or against the schema.
        """
        raw = load_object(payload, cls.MAX_BYTES)
        check_schema(cls.KIND, raw)
        message = build(cls, raw)
        message.check()
        return message

    def check(self) -> None:
        """Raise MessageError for what JSON Schema can't say."""
        parse_rfc3339(self.at)


def _fields(message: Message) -> tuple["dataclasses.Field[object]", ...]:
    return dataclasses.fields(message)
