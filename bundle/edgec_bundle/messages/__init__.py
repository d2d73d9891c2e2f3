"""The messages and topics between device and server.

Each kind is a frozen dataclass with `to_bytes` and `from_bytes`, a JSON Schema in `schemas/` and
a golden example in `examples/`. Reference: docs/reference/wire.md.
"""

from types import MappingProxyType

from edgec_bundle.messages._codec import JSON, MAX_DEPTH, example, schema
from edgec_bundle.messages.desired import SOURCE_ROLES, BlobRef, Desired, PatchSource, Source
from edgec_bundle.messages.event import MAX_EVIDENCE_BYTES, Event
from edgec_bundle.messages.hello import AgentInfo, Hello
from edgec_bundle.messages.message import VERSION, Message, new_id, parse_rfc3339, rfc3339
from edgec_bundle.messages.reply import Reply, ReplyError
from edgec_bundle.messages.request import MAX_BITMAP_BYTES, Request, bitmap_of
from edgec_bundle.messages.state import FINAL_PHASES, PHASES, Deployed, ModelState, State
from edgec_bundle.messages.telemetry import (
    Counts,
    Host,
    ModelTelemetry,
    Percentiles,
    Telemetry,
    Window,
)
from edgec_bundle.messages.topics import (
    ALL_UP,
    DOWN_KINDS,
    UP_KINDS,
    BlobTopic,
    DeviceTopic,
    Topics,
    blob_filter,
    blob_topic,
    parse_topic,
)

KINDS = MappingProxyType(
    {cls.KIND: cls for cls in (Hello, State, Event, Telemetry, Request, Desired, Reply)}
)

__all__ = [
    "ALL_UP",
    "DOWN_KINDS",
    "FINAL_PHASES",
    "JSON",
    "KINDS",
    "MAX_BITMAP_BYTES",
    "MAX_DEPTH",
    "MAX_EVIDENCE_BYTES",
    "PHASES",
    "SOURCE_ROLES",
    "UP_KINDS",
    "VERSION",
    "AgentInfo",
    "BlobRef",
    "BlobTopic",
    "Counts",
    "Deployed",
    "Desired",
    "DeviceTopic",
    "Event",
    "Hello",
    "Host",
    "Message",
    "ModelState",
    "ModelTelemetry",
    "PatchSource",
    "Percentiles",
    "Reply",
    "ReplyError",
    "Request",
    "Source",
    "State",
    "Telemetry",
    "Topics",
    "Window",
    "bitmap_of",
    "blob_filter",
    "blob_topic",
    "example",
    "new_id",
    "parse_rfc3339",
    "parse_topic",
    "rfc3339",
    "schema",
]
