"""The connection to the broker: MQTT 3.1.1 over mutual TLS, made again whenever it breaks.

One thread connects, waits until the connection ends, and backs off with jitter. Each connection
is a paho client of its own, so nothing half-sent is carried over: what must arrive waits in the
outbox. Callbacks run on paho's network thread and only put things into queues.

A SUBACK proves nothing (Mosquitto grants what its ACL then withholds), so nothing here waits for
one.
"""

import logging
import queue
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from edgec_agent.config import Link as LinkConfig
from edgec_agent.download import SourceError
from edgec_agent.machine import backoff_s
from edgec_bundle.errors import MessageError
from edgec_bundle.messages import (
    MAX_BITMAP_BYTES,
    BlobTopic,
    DeviceTopic,
    Reply,
    Request,
    Topics,
    bitmap_of,
    new_id,
    parse_topic,
)

logger = logging.getLogger(__name__)

_LASTED_S = 30.0  # a connection that lasted this long was a good one
_QUEUED_BLOCKS = 128
_CONNECT_S = 30.0  # for TCP and TLS, on the slowest link
_TCP_INFO = getattr(socket, "TCP_INFO", -1)
_BYTES_RECEIVED = slice(128, 136)  # tcpi_bytes_received in Linux's struct tcp_info


class BlockFeed:
    """Blocks of one blob as they arrive; see `mqtt_source.Feed`."""

    def __init__(self, link: "Link", digest: str, now: Callable[[], str]) -> None:
        self._link = link
        self._now = now
        self._found: queue.Queue[tuple[int, bytes] | SourceError] = queue.Queue(_QUEUED_BLOCKS)
        self._asked: set[str] = set()
        self.digest = digest

    def request(self, blocks: Sequence[int], block_bytes: int) -> bool:
        """Ask the server for `blocks`; False if there is no connection."""
        first = blocks[0]
        near = [block for block in blocks if block - first < 8 * MAX_BITMAP_BYTES]
        request = Request(
            at=self._now(),
            id=new_id(),
            digest=self.digest,
            first=first,
            bitmap=bitmap_of(near, first),
            block_bytes=block_bytes,
        )
        self._asked.add(request.id)
        return self._link.publish("request", request.to_bytes()) is not None

    def next(self, timeout_s: float) -> tuple[int, bytes] | None:
        """Return the next block (number, bytes), or None. Raises SourceError if refused."""
        try:
            found = self._found.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if isinstance(found, SourceError):
            raise found
        return found

    def received_bytes(self) -> int:
        """Return a number that grows while anything arrives on the connection."""
        return self._link.received_bytes

    def close(self) -> None:
        """End the subscription."""
        self._link.end_feed(self)

    def put(self, index: int, data: bytes) -> None:
        """Take a block in; one too many is dropped, for it will be asked for again."""
        try:
            self._found.put_nowait((index, data))
        except queue.Full:
            logger.debug("block %d dropped: too many wait", index)

    def refuse(self, reply: Reply) -> None:
        """Take in the server's answer if it answers a request of this feed."""
        if reply.re in self._asked and not reply.ok:
            code = reply.error.code if reply.error else "refused"
            text = reply.error.message if reply.error else "no reason given"
            error = SourceError(f"{code}: {text}"[:300], absent=code in _ABSENT)
            try:
                self._found.put_nowait(error)
            except queue.Full:
                logger.debug("a refusal was dropped: too many blocks wait")


_ABSENT = frozenset({"not_assigned", "unknown_blob", "not_found", "absent"})


class Link:
    """Keeps one connection to the broker. Methods may be called from any thread."""

    def __init__(
        self,
        address: tuple[str, int],
        topics: Topics,
        config: LinkConfig,
        *,
        tls: Callable[[], ssl.SSLContext],
        will: Callable[[], bytes],
        on_desired: Callable[[bytes], None],
        on_connected: Callable[[], None] = lambda: None,
        now: Callable[[], str],
    ) -> None:
        """Prepare; `start` connects.

        Args:
            tls: makes the context for each connection, so that a renewed certificate is used.
            will: the retained `state` that the broker publishes when the connection is lost.
            on_desired: takes the payload of each `desired`; must return at once.
            on_connected: told of each connection; must return at once.
            now: the local clock, as messages write it.
        """
        self._address = address
        self._topics = topics
        self._config = config
        self._tls = tls
        self._will = will
        self._on_desired = on_desired
        self._on_connected = on_connected
        self._now = now
        self._feeds: dict[str, BlockFeed] = {}
        self._lock = threading.Lock()
        self._client: mqtt.Client | None = None
        self._ended = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="edgec-link", daemon=True)
        self.generation = 0  # counts connections
        self.acks: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()  # generation, mid
        self.problem: str | None = "not connected yet"

    def start(self) -> None:
        """Connect, and keep connecting, in a thread of its own."""
        self._thread.start()

    def close(self) -> None:
        """Disconnect for good. Whoever wants to say good-bye publishes before."""
        self._stop.set()
        client = self._client
        if client is not None:
            client.disconnect()
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the connection and it has not ended."""
        return self._client is not None

    @property
    def received_bytes(self) -> int:
        """How many bytes this connection has brought; 0 where the system does not say.

        Counted by the kernel, for half a block is not yet a message.
        """
        client = self._client
        sock = client.socket() if client is not None else None
        if not isinstance(sock, socket.socket):
            return 0
        try:
            raw = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_RECEIVED.stop)
        except OSError:  # no longer connected, or not on Linux
            return 0
        return int.from_bytes(raw[_BYTES_RECEIVED], sys.byteorder)

    def publish(self, kind: str, payload: bytes, *, retain: bool = False) -> int | None:
        """Send to ``up/<kind>`` with QoS 1; return its number, to be found in `acks`, or None."""
        client = self._client
        if client is None:
            return None
        info = client.publish(self._topics.up(kind), payload, qos=1, retain=retain)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def feed(self, digest: str) -> BlockFeed:
        """Subscribe to the blocks of a blob until the feed is closed."""
        feed = BlockFeed(self, digest, self._now)
        with self._lock:
            self._feeds[digest] = feed
        client = self._client
        if client is not None:
            client.subscribe(self._topics.blob_filter(digest), qos=0)
        return feed

    def end_feed(self, feed: BlockFeed) -> None:
        """End a feed's subscription."""
        with self._lock:
            if self._feeds.get(feed.digest) is feed:
                del self._feeds[feed.digest]
        client = self._client
        if client is not None:
            client.unsubscribe(self._topics.blob_filter(feed.digest))

    # -- the connecting thread ---------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            started = time.monotonic()
            self._connect_once()
            failures = 0 if time.monotonic() - started > _LASTED_S else failures + 1
            chance = random.random()  # noqa: S311  # spreads a fleet, hides nothing
            delay_s = backoff_s(
                max(failures, 1), self._config.backoff_s, self._config.longest_backoff_s, chance
            )
            self._stop.wait(delay_s)

    def _connect_once(self) -> None:
        """Connect, and return when the connection has ended or never came to be."""
        self._ended.clear()
        host, port = self._address
        try:
            client = self._new_client()
            client.connect(host, port, keepalive=self._config.keepalive_s)
        except Exception as error:  # network, certificate, disk: whatever it is, try again
            self._note(f"can't connect to {host}:{port}: {error}")
            return
        client.loop_start()
        try:
            while not self._ended.wait(1.0) and not self._stop.is_set():
                pass
        finally:
            self._client = None
            client.disconnect()
            client.loop_stop()

    def _new_client(self) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._topics.device,
            clean_session=True,
            protocol=mqtt.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = _CONNECT_S
        client.tls_set_context(self._tls())
        client.will_set(self._topics.up("state"), self._will(), qos=1, retain=True)
        client.on_connect = self._connected
        client.on_disconnect = self._disconnected
        client.on_message = self._arrived
        client.on_publish = self._acknowledged
        return client

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem

    # -- callbacks, on paho's thread ---------------------------------------------------------

    def _connected(
        self, client: mqtt.Client, _user: object, _flags: object, code: Any, _more: object
    ) -> None:
        if code.is_failure:
            self._note(f"the broker refused the connection: {code}")
            self._ended.set()
            return
        client.subscribe(self._topics.down_filter, qos=1)
        with self._lock:
            for digest in self._feeds:
                client.subscribe(self._topics.blob_filter(digest), qos=0)
        self.generation += 1
        self._client = client
        self.problem = None
        logger.info("connected to %s:%d", *self._address)
        self._on_connected()

    def _disconnected(
        self, client: mqtt.Client, _user: object, _flags: object, code: Any, _more: object
    ) -> None:
        if self._client is client:
            self._client = None
            if not self._stop.is_set():
                self._note(f"connection lost: {code}")
        self._ended.set()

    def _acknowledged(
        self, client: mqtt.Client, _user: object, mid: int, _code: object, _more: object
    ) -> None:
        self.acks.put((self.generation, mid))

    def _arrived(self, _client: mqtt.Client, _user: object, message: mqtt.MQTTMessage) -> None:
        try:
            topic = parse_topic(message.topic)
            payload = bytes(message.payload)
            match topic:
                case BlobTopic(sha256=digest, block=block):
                    with self._lock:
                        feed = self._feeds.get(digest)
                    if feed is not None:
                        feed.put(block, payload)
                case DeviceTopic(kind="desired"):
                    self._on_desired(payload)
                case DeviceTopic(kind="reply"):
                    self._replied(Reply.from_bytes(payload))
        except (MessageError, UnicodeDecodeError) as error:
            logger.warning("a message was left out: %s", error)

    def _replied(self, reply: Reply) -> None:
        with self._lock:
            feeds = list(self._feeds.values())
        for feed in feeds:
            feed.refuse(reply)
