"""amqtt as our child's broker where Mosquitto is not installed: pure Python, for small fleets.

amqtt's own listener asks for a client certificate without insisting, reads packets of any size,
and lets a CONNECT take a session over before it is authenticated. So the listener is ours: it
insists on a certificate of the fleet CA that is not revoked, reads the CONNECT itself, compares
its client id with the certificate, bounds every packet, and only then hands the connection over.
MQTT 3.1.1 only; what it retains is lost when it stops (the gateway publishes it again).
"""

import asyncio
import logging
import ssl
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from amqtt.adapters import ReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import Action, BaseContext, BrokerConfig, ListenerConfig, ListenerType
from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
from amqtt.session import Session
from cryptography import x509
from cryptography.x509.oid import NameOID

from edgec_fleet.broker.mosquitto import CA, IDENTITY, LARGEST_MESSAGE, BrokerError
from edgec_fleet.broker.policy import Policy
from edgec_fleet.broker.rules import Rules
from edgec_fleet.pki import serial_hex
from edgec_fleet.settings import Address

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
LARGEST_CONNECT = 128 * 1024  # a last will of 64 KiB, and names
_LISTENER = "default"
_REFUSED_ID, _NOT_AUTHORIZED, _BAD_VERSION = 2, 5, 1


class RulesPlugin(BaseAuthPlugin, BaseTopicPlugin):  # type: ignore[misc]
    """Asks `Rules` for every topic; who a client is was proven before amqtt sees it."""

    @dataclass
    class Config:
        """Holds the rules, which change while the broker runs."""

        rules: Rules

    def __init__(self, context: BaseContext) -> None:
        super().__init__(context)
        self._rules = cast("RulesPlugin.Config", context.config).rules

    async def authenticate(self, *, session: Session) -> bool | None:
        """Return True: the listener has proven the client's identity."""
        session.is_anonymous = False
        return True

    async def topic_filtering(
        self,
        *,
        session: Session | None = None,
        topic: str | None = None,
        action: Action | None = None,
    ) -> bool | None:
        """Return whether the session's client may do `action` on `topic`."""
        if session is None or topic is None or not session.client_id:
            return False
        match action:
            case Action.PUBLISH:
                return self._rules.may_publish(session.client_id, topic)
            case Action.SUBSCRIBE:
                return self._rules.may_subscribe(session.client_id, topic)
            case Action.RECEIVE:
                return self._rules.may_receive(session.client_id, topic)
        return False


class _GuardedBroker(Broker):  # type: ignore[misc]
    """amqtt 0.12.1, except that retained messages keep to the rules as well.

    There, a client that connects anew is sent retained messages for the subscriptions of *all*
    clients, and none of them are checked.
    """

    def __init__(self, config: BrokerConfig, rules: Rules) -> None:
        super().__init__(config)
        self._rules = rules

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        filter_, qos = subscription
        subscribers = self._subscriptions.get(filter_, [])
        handler = self._get_handler(session)
        if handler is None or all(one.client_id != session.client_id for one, _ in subscribers):
            return
        for topic, retained in list(self._retained_messages.items()):
            if self._matches(topic, filter_) and self._rules.may_receive(
                session.client_id or "", topic
            ):
                level = min(qos, retained.qos or qos)
                await handler.mqtt_publish(topic, retained.data, level, retain=True)


class _Reader(ReaderAdapter):  # type: ignore[misc]
    """Reads what the listener read already, then the connection; no packet above the limit."""

    def __init__(
        self, seen: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._seen = seen
        self._reader = reader
        self._writer = writer

    async def read(self, n: int = -1) -> bytes:
        """Return exactly `n` bytes. Raises ConnectionResetError: more than a packet may have."""
        if n < 0 or n > LARGEST_MESSAGE + 1024:
            self._writer.transport.abort()  # amqtt itself would go on reading
            raise ConnectionResetError(f"a packet of {n} bytes")
        head, self._seen = self._seen[:n], self._seen[n:]
        return head + (await self._reader.readexactly(n - len(head)) if len(head) < n else b"")

    def feed_eof(self) -> None:
        """End the stream."""
        self._reader.feed_eof()


class PureBroker:
    """amqtt on a thread of its own. The TLS files must be in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rules = Rules(Policy())
        self._tls = _mutual_tls()
        self._loop = asyncio.new_event_loop()
        self._writers: dict[str, set[asyncio.StreamWriter]] = {}
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._broker: _GuardedBroker | None = None
        self._server: asyncio.Server | None = None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._thread.is_alive() else 1

    def start(self, address: Address, policy: Policy) -> None:
        """Listen. Raises BrokerError."""
        self._rules.policy = policy
        self._tls.load_cert_chain(self._folder / IDENTITY)
        self._tls.load_verify_locations(self._folder / CA)
        self._thread.start()
        try:
            self._run(self._start(address))
        except OSError as error:
            raise BrokerError(f"cannot listen at {address}: {error.strerror}") from error

    def apply(self, policy: Policy, kick: Iterable[str]) -> None:
        """Put `policy` in force, read the certificate anew, end the connections of `kick`."""
        self._rules.policy = policy
        self._tls.load_cert_chain(self._folder / IDENTITY)
        self._run(self._kick(tuple(kick)))

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop; nothing is kept."""
        if self._thread.is_alive():
            with suppress(TimeoutError):
                self._run(self._stop(), timeout_s)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout_s)

    def _run(self, work: Any, timeout_s: float = 30.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    async def _start(self, address: Address) -> None:
        self._broker = _GuardedBroker(
            BrokerConfig(
                listeners={_LISTENER: ListenerConfig(type=ListenerType.EXTERNAL)},
                timeout_disconnect_delay=10,
                session_expiry_interval=14 * 86400,
                plugins={f"{__name__}.{RulesPlugin.__name__}": {"rules": self._rules}},
            ),
            self._rules,
        )
        await self._broker.start()
        self._server = await asyncio.start_server(
            self._accept,
            address.host,
            address.port,
            ssl=self._tls,
            ssl_handshake_timeout=CONNECT_TIMEOUT_S,
        )

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writers in self._writers.values():
            for writer in writers:
                writer.transport.abort()
        if self._broker is not None:
            await self._broker.shutdown()

    async def _kick(self, clients: tuple[str, ...]) -> None:
        for client in clients:
            for writer in self._writers.get(client, ()):
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            name = self._name(writer)
            if name is None:
                return
            packet = await asyncio.wait_for(read_connect(reader), CONNECT_TIMEOUT_S)
            refusal = refusal_of(packet, name)
            if refusal is not None:
                writer.write(bytes([0x20, 2, 0, refusal]))
                await writer.drain()
                return
            self._writers.setdefault(name, set()).add(writer)
            assert self._broker is not None  # noqa: S101 (started before the server)
            await self._broker.external_connected(
                _Reader(packet, reader, writer), StreamWriterAdapter(writer), _LISTENER
            )
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            logger.info("a connection was refused or broke: %s", error)
        finally:
            self._forget(writer)
            writer.close()

    def _name(self, writer: asyncio.StreamWriter) -> str | None:
        """Return the client's name by its certificate, or None if it may not connect."""
        tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
        certificate = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        name = str(names[0].value) if len(names) == 1 else ""
        if self._rules.may_connect(name, serial_hex(certificate)):
            return name
        logger.info("%s may not connect: revoked or unknown", name)
        return None

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        for name, writers in list(self._writers.items()):
            writers.discard(writer)
            if not writers:
                del self._writers[name]


async def read_connect(reader: asyncio.StreamReader) -> bytes:
    """Return the first packet whole. Raises ValueError: not a CONNECT of reasonable size."""
    head = await reader.readexactly(2)
    if head[0] != 0x10:
        raise ValueError("expected CONNECT as the first packet")
    length, shift = head[1] & 0x7F, 7
    while head[-1] & 0x80:
        head += await reader.readexactly(1)
        length |= (head[-1] & 0x7F) << shift
        shift += 7
        if shift > 21:
            raise ValueError("expected a CONNECT of reasonable size")
    if length > LARGEST_CONNECT:
        raise ValueError("expected a CONNECT of reasonable size")
    return head + await reader.readexactly(length)


def refusal_of(packet: bytes, name: str) -> int | None:
    """Return why a CONNECT of the client `name` is refused, as CONNACK's return code, or None."""
    start = 2
    while packet[start - 1] & 0x80:
        start += 1
    body = packet[start:]
    if body[:6] != b"\x00\x04MQTT" or len(body) < 12 or body[6] != 4:
        return _BAD_VERSION
    size = int.from_bytes(body[10:12], "big")
    if body[12 : 12 + size] != name.encode():
        return _REFUSED_ID
    return None


def _mutual_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    return context
