"""The server's connection to the broker: MQTT 3.1.1, its own certificate, a lasting session.

Callbacks run on paho's thread and only put messages into a queue. A message of QoS 1 is
acknowledged when it is safely in the database, so that a killed gateway loses none: the broker
keeps them for its session and sends them again.
"""

import logging
import queue
import ssl
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from edgec_bundle.messages import ALL_UP
from edgec_fleet.errors import FleetError, SettingsError

logger = logging.getLogger(__name__)

KEEPALIVE_S = 20
RECONNECT_S = (1, 30)
MAXIMUM_WAITING = 20_000  # messages; above that the broker's own queue has to hold them
PLAIN, TLS = "mqtt", "mqtts"


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and how to prove who we are."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    user: str | None = None
    password: str | None = None

    @classmethod
    def parse(cls, url: str, tls: ssl.SSLContext) -> "Broker":
        """Read ``mqtts://[user:password@]host[:port]`` (``mqtt://`` on loopback only).

        Raises SettingsError.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise SettingsError(f"expected a broker URL like mqtts://host:8883: {error}") from error
        if parts.scheme not in (PLAIN, TLS) or not host:
            raise SettingsError("expected a broker URL like mqtts://host:8883")
        if parts.scheme == PLAIN and host not in ("localhost", "127.0.0.1", "::1"):
            raise SettingsError("a broker that is not on this machine must speak TLS (mqtts://)")
        return cls(
            host=host,
            port=port or (1883 if parts.scheme == PLAIN else 8883),
            tls=tls if parts.scheme == TLS else None,
            user=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
        )

    def __str__(self) -> str:
        return f"{TLS if self.tls else PLAIN}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Arrived:
    """One message as it came. `generation` is the connection that it must be acknowledged on."""

    topic: str
    payload: bytes
    mid: int
    qos: int
    generation: int


class UnsentError(FleetError):
    """The broker is not there, or did not acknowledge in time."""

    status = 503


class Link:
    """Keeps one connection to the broker. Methods may be called from any thread.

    Args:
        broker: where to.
        client_id: must be unique among gateways, and lasting: the broker's session hangs on it.
    """

    def __init__(self, broker: Broker, client_id: str) -> None:
        self._broker = broker
        self.arrived: queue.Queue[Arrived] = queue.Queue()
        self.ready = threading.Event()  # connected and subscribed
        self._generation = 0
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False,
            protocol=mqtt.MQTTv311,
            manual_ack=True,
        )
        self._client.max_inflight_messages_set(200)
        self._client.reconnect_delay_set(*RECONNECT_S)
        if broker.tls is not None:
            self._client.tls_set_context(broker.tls)
        if broker.user is not None:
            self._client.username_pw_set(broker.user, broker.password)
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_subscribe = self._subscribed
        self._client.on_message = self._on_message

    def start(self) -> None:
        """Connect, and keep connecting, on a thread of its own."""
        self._client.connect_async(self._broker.host, self._broker.port, KEEPALIVE_S)
        self._client.loop_start()

    def close(self) -> None:
        """Disconnect, and send nothing more; the broker keeps the session."""
        self.ready.clear()
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send with QoS 1 and return when the broker has it. Raises UnsentError."""
        self.wait([self.send(topic, payload, qos=1, retain=retain)])

    def send(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> mqtt.MQTTMessageInfo:
        """Begin to send; `wait` for the result. Raises UnsentError."""
        if not self.ready.is_set():
            raise UnsentError(f"not connected to {self._broker}")
        info = self._client.publish(topic, payload, qos=qos, retain=retain)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise UnsentError(f"the broker did not take a message: {mqtt.error_string(info.rc)}")
        return info

    def wait(self, infos: list[mqtt.MQTTMessageInfo], timeout_s: float = 10.0) -> None:
        """Return when all are sent (QoS 0) or acknowledged (QoS 1). Raises UnsentError."""
        for info in infos:
            try:
                info.wait_for_publish(timeout_s)
            except (RuntimeError, ValueError) as error:
                raise UnsentError(f"the broker did not take a message: {error}") from error
            if not info.is_published():
                raise UnsentError(f"the broker did not acknowledge within {timeout_s:g} s")

    def acknowledge(self, message: Arrived) -> None:
        """Tell the broker that the message is safe, if it came on this connection."""
        if message.qos and message.generation == self._generation:
            self._client.ack(message.mid, message.qos)

    # -- callbacks, on paho's thread ---------------------------------------------------------

    def _connected(
        self, client: mqtt.Client, _user: object, _flags: object, code: Any, _more: object
    ) -> None:
        if code.is_failure:
            logger.warning("the broker refused the connection: %s", code)
            return
        self._generation += 1
        client.subscribe(ALL_UP, qos=1)

    def _subscribed(
        self, _client: mqtt.Client, _user: object, _mid: int, codes: Any, _more: object
    ) -> None:
        if any(code.is_failure for code in codes):
            logger.error("the broker refused the subscription to %s", ALL_UP)
            return
        logger.info("connected to %s", self._broker)
        self.ready.set()

    def _disconnected(
        self, _client: mqtt.Client, _user: object, _flags: object, code: Any, _more: object
    ) -> None:
        if self.ready.is_set():
            logger.warning("connection to %s lost: %s", self._broker, code)
        self.ready.clear()

    def _on_message(self, _client: mqtt.Client, _user: object, message: mqtt.MQTTMessage) -> None:
        if self.arrived.qsize() >= MAXIMUM_WAITING:
            return  # not acknowledged: the broker sends it again on the next connection
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""
        self.arrived.put(
            Arrived(topic, bytes(message.payload), message.mid, message.qos, self._generation)
        )
