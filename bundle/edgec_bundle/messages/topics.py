"""The MQTT topics of edgec, built and taken apart here and nowhere else.

edgec/v1/<tenant>/dev/<device>/up/{hello,state,event,telemetry,request}   device -> server
edgec/v1/<tenant>/dev/<device>/down/{desired,reply}                       server -> device
edgec/v1/<tenant>/blob/<sha256>/<block>                                   server -> who asked
"""

import re
from dataclasses import dataclass

from edgec_bundle.digest import is_digest
from edgec_bundle.errors import MessageError

UP_KINDS = ("hello", "state", "event", "telemetry", "request")
DOWN_KINDS = ("desired", "reply")
MAX_BLOCK = 2**31 - 1

_PREFIX = "edgec/v1"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_BLOCK = re.compile(r"0|[1-9][0-9]{0,9}")

ALL_UP = f"{_PREFIX}/+/dev/+/up/#"  # what a gateway subscribes to


def _check_name(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a {what} name: {name!r}")


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device. Raises ValueError for names that no topic may hold."""

    tenant: str
    device: str

    def __post_init__(self) -> None:
        _check_name(self.tenant, "tenant")
        _check_name(self.device, "device")

    def up(self, kind: str) -> str:
        """Return the topic on which this device publishes messages of `kind`."""
        if kind not in UP_KINDS:
            raise ValueError(f"not a kind of message that devices send: {kind!r}")
        return f"{_PREFIX}/{self.tenant}/dev/{self.device}/up/{kind}"

    def down(self, kind: str) -> str:
        """Return the topic on which the server publishes messages of `kind` to this device."""
        if kind not in DOWN_KINDS:
            raise ValueError(f"not a kind of message that servers send: {kind!r}")
        return f"{_PREFIX}/{self.tenant}/dev/{self.device}/down/{kind}"

    @property
    def up_filter(self) -> str:
        """The filter of all that this device may publish."""
        return f"{_PREFIX}/{self.tenant}/dev/{self.device}/up/#"

    @property
    def down_filter(self) -> str:
        """The filter that this device subscribes to."""
        return f"{_PREFIX}/{self.tenant}/dev/{self.device}/down/#"

    def blob_filter(self, sha256: str) -> str:
        """Return the filter of all blocks of one blob."""
        return blob_filter(self.tenant, sha256)

    def blob(self, sha256: str, block: int) -> str:
        """Return the topic of one block of one blob."""
        return blob_topic(self.tenant, sha256, block)


def blob_filter(tenant: str, sha256: str) -> str:
    """Return the filter of all blocks of one blob."""
    _check_name(tenant, "tenant")
    if not is_digest(sha256):
        raise ValueError(f"not a sha256 digest: {sha256!r}")
    return f"{_PREFIX}/{tenant}/blob/{sha256}/+"


def blob_topic(tenant: str, sha256: str, block: int) -> str:
    """Return the topic of block number `block`, counted from 0."""
    if not 0 <= block <= MAX_BLOCK:
        raise ValueError(f"not a block number: {block}")
    return blob_filter(tenant, sha256).removesuffix("+") + str(block)


@dataclass(frozen=True, slots=True)
class DeviceTopic:
    """A topic of one device: `direction` is "up" or "down"."""

    tenant: str
    device: str
    direction: str
    kind: str


@dataclass(frozen=True, slots=True)
class BlobTopic:
    """The topic of one block."""

    tenant: str
    sha256: str
    block: int


def parse_topic(topic: str) -> DeviceTopic | BlobTopic:
    """Return the parts of a topic that came from the network.

    Raises:
        MessageError: not a topic of edgec, or of a kind that is unknown here.
    """
    match topic.split("/"):
        case ["edgec", "v1", tenant, "dev", device, ("up" | "down") as direction, kind] if (
            _NAME.fullmatch(tenant)
            and _NAME.fullmatch(device)
            and kind in (UP_KINDS if direction == "up" else DOWN_KINDS)
        ):
            return DeviceTopic(tenant, device, direction, kind)
        case ["edgec", "v1", tenant, "blob", sha256, block] if (
            _NAME.fullmatch(tenant)
            and is_digest(sha256)
            and _BLOCK.fullmatch(block)
            and int(block) <= MAX_BLOCK
        ):
            return BlobTopic(tenant, sha256, int(block))
    raise MessageError(f"not a topic of edgec: {topic[:200]!r}")
