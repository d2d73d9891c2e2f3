"""What the broker takes in one packet, and the blocks that fit.

A broker that is sent more than it takes ends the connection, again and again. So we ask it: an
MQTT 5 broker says its Maximum Packet Size when a client connects (OASIS MQTT 5.0, 3.2.2.3.6). One
that speaks only 3.1.1 does not say, and is believed to take what is configured.
"""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgec_fleet.errors import FleetError, SettingsError
from edgec_fleet.gateway.link import Broker

logger = logging.getLogger(__name__)

SMALLEST_BLOCK_BYTES = 4096
_ENVELOPE = 256  # fixed header, packet id and the longest topic of a block
_ASK_S = 10.0
_FOREVER = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class PacketLimits:
    """How large blocks and messages may be.

    Attributes:
        block_bytes: what each block has.
        packet_bytes: the most that the broker takes in a packet, or None if it did not say.
    """

    block_bytes: int
    packet_bytes: int | None = None

    def check(self, topic: str, payload: bytes) -> None:
        """Raise FleetError if the broker would not take the message."""
        needed = len(topic.encode()) + len(payload) + 16
        if self.packet_bytes is not None and needed > self.packet_bytes:
            raise FleetError(
                f"the broker takes packets of {self.packet_bytes} bytes at most, and this message "
                f"has {needed}: raise the broker's maximum packet size"
            )


def fit(wanted: int, packet_bytes: int | None) -> PacketLimits:
    """Return limits with blocks of `wanted` bytes, halved until the broker takes them.

    Raises SettingsError: it does not even take the smallest.
    """
    block_bytes = wanted
    while packet_bytes is not None and block_bytes + _ENVELOPE > packet_bytes:
        block_bytes //= 2
        if block_bytes < SMALLEST_BLOCK_BYTES:
            raise SettingsError(
                f"the broker takes packets of {packet_bytes} bytes at most; blocks need "
                f"{SMALLEST_BLOCK_BYTES + _ENVELOPE}: raise its maximum packet size"
            )
    return PacketLimits(block_bytes, packet_bytes)


def ask_maximum(broker: Broker, client_id: str, timeout_s: float = _ASK_S) -> int | None:
    """Return the packet size that an MQTT 5 broker names; None if it names none, or is 3.1.1.

    Connects as `client_id` for a moment, before the link does. The session that may wait for it
    stays: it is not cleaned, and nothing that arrives is acknowledged.
    """
    answered = threading.Event()
    said: list[int] = []

    def connected(_client: Any, _user: Any, _flags: Any, code: Any, properties: Any) -> None:
        found = getattr(properties, "MaximumPacketSize", None)
        if not code.is_failure and found:
            said.append(int(found))
        answered.set()

    client = mqtt.Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=mqtt.MQTTv5,
        manual_ack=True,
        reconnect_on_failure=False,
    )
    if broker.tls is not None:
        client.tls_set_context(broker.tls)
    if broker.user is not None:
        client.username_pw_set(broker.user, broker.password)
    client.on_connect = connected
    client.on_disconnect = lambda *_: answered.set()
    lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    lasting.SessionExpiryInterval = _FOREVER
    try:
        client.connect(broker.host, broker.port, 20, clean_start=False, properties=lasting)
    except OSError as error:
        logger.info("the broker at %s can't be asked for its packet size: %s", broker, error)
        return None
    client.loop_start()
    answered.wait(timeout_s)
    client.disconnect()
    client.loop_stop()
    return said[0] if said else None
