"""The local API's sockets: a thread per connection, a bounded number of them.

A thread per connection is what was measured to cost least for calls of a millisecond; it is safe
because everything a client can take is bounded (`Limits`): connections, bytes, and every wait.
"""

import contextlib
import logging
import os
import selectors
import socket
import threading
import time

from edgec_agent.address import Address, is_loopback
from edgec_agent.errors import AddressError
from edgec_agent.host import ModelHost
from edgec_agent.http1 import Disconnected, Request, Response, Stream
from edgec_agent.http_head import Head, HttpError
from edgec_agent.limits import Budget, Lease, Limits, decompress
from edgec_agent.metrics import HttpCounts
from edgec_agent.routes import Api, Status, failure

logger = logging.getLogger(__name__)

_LINGER_S = 1.0
_LINGER_BYTES = 1 << 20


class InferenceServer:
    """A running server; `address` is where it listens ("127.0.0.1:9000", "unix:/run/x.sock")."""

    def __init__(
        self, host: ModelHost, address: Address, *, status: Status | None, limits: Limits
    ) -> None:
        """Listen on `address`. Raises AddressError."""
        self._listener = address.listen()
        port = address.port if address.path is not None else self._listener.getsockname()[1]
        self._where = Address(address.host, port, address.path)
        self._inode = os.stat(address.path).st_ino if address.path is not None else None
        self.address = str(self._where)
        self._limits = limits
        self._counts = HttpCounts()
        self._api = Api(host, self._counts, status)
        self._budget = Budget(limits.in_flight_bytes)
        self._lock = threading.Lock()
        self._idle: dict[socket.socket, float] = {}  # since when; of those between two requests
        self._busy: set[socket.socket] = set()
        self._closing = False
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="edgec-http", daemon=True)
        self._thread.start()

    def close(self, drain_s: float = 5.0) -> None:
        """Stop listening, let calls in flight end (up to `drain_s`), close every connection."""
        with self._lock:
            if self._closing:
                return
            self._wake.send(b"x")  # first: a thread that sees it closing closes this, too
            self._closing = True
            for sock in self._idle:
                _stop_reading(sock)
        self._thread.join()
        if self._where.path is not None:
            self._unlink(self._where.path)
        deadline = time.monotonic() + drain_s
        while self._open() and time.monotonic() < deadline:
            time.sleep(0.01)
        with self._lock:
            for sock in (*self._idle, *self._busy):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def _unlink(self, path: str) -> None:
        with contextlib.suppress(OSError):
            if os.stat(path).st_ino == self._inode:  # not a successor's
                os.unlink(path)

    def _open(self) -> int:
        with self._lock:
            return len(self._idle) + len(self._busy)

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector, self._listener, self._wake, self._woken:
            self._listener.setblocking(False)
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closing:
                selector.select()
                try:
                    sock, _ = self._listener.accept()
                except BlockingIOError:
                    continue
                except OSError as error:  # out of file descriptors, or the client is gone already
                    logger.warning("accepting a connection: %s", error)
                    time.sleep(0.05)
                    continue
                self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            open_now = len(self._idle) + len(self._busy)
            admitted = open_now < self._limits.connections or self._evict_idle()
            if admitted:
                self._busy.add(sock)
        if not admitted:
            _turn_away(sock)
            return
        self._counts.connected(1)
        try:
            threading.Thread(
                target=self._converse, args=(sock,), name="edgec-call", daemon=True
            ).start()
        except RuntimeError:  # no more threads
            self._forget(sock)

    def _evict_idle(self) -> bool:
        """End the connection that has been idle for longest, so that a later client gets in.

        Return whether there was one. Needs the lock.
        """
        sock = min(self._idle, key=lambda one: self._idle[one], default=None)
        if sock is None or self._idle[sock] > time.monotonic() - self._limits.evictable_s:
            return False
        del self._idle[sock]
        self._busy.add(sock)  # until its thread has noticed
        _stop_reading(sock)
        return True

    def _converse(self, sock: socket.socket) -> None:
        stream = Stream(sock, self._limits)
        try:
            while self._answer_next(sock, stream):
                pass
        except Disconnected:
            pass
        except Exception:
            logger.exception("a connection ended")
        finally:
            self._forget(sock)

    def _answer_next(self, sock: socket.socket, stream: Stream) -> bool:
        """Answer one request; return whether another may follow."""
        self._mark_idle(sock)
        stream.wait_for_request()
        with self._lock:
            self._idle.pop(sock, None)
            self._busy.add(sock)
        head: Head | None = None
        with Lease(self._budget) as lease:
            try:
                head = stream.read_head()
                response = self._api.handle(self._read(head, stream, lease))
                keep_alive = head.keep_alive and not self._closing
            except HttpError as error:
                response, keep_alive = failure(error.status, str(error)), False
            self._counts.responded(response.status)
            self._send(stream, response, head, keep_alive)
        if not keep_alive:
            _linger(sock)
        return keep_alive

    def _read(self, head: Head, stream: Stream, lease: Lease) -> Request:
        self._check_host(head)
        body = stream.read_body(head, lease)
        coding = head.headers.get("content-encoding", "identity")
        if body and coding.lower() != "identity":
            body = decompress(body, coding, self._limits, lease)
        return Request(head, body)

    def _check_host(self, head: Head) -> None:
        """Refuse what a web page could send to this machine under a name of its own."""
        if self._where.path is not None or not self._where.is_local:
            return
        name = head.headers.get("host", "localhost")
        name = name.partition("]")[0][1:] if name.startswith("[") else name.partition(":")[0]
        if not is_loopback(name):
            raise HttpError(403, "expected Host: localhost or a loopback address")

    def _send(self, stream: Stream, response: Response, head: Head | None, keep: bool) -> None:
        with_body = head is None or head.method != "HEAD"
        stream.send(response.to_bytes(keep_alive=keep, with_body=with_body))

    def _mark_idle(self, sock: socket.socket) -> None:
        with self._lock:
            self._busy.discard(sock)
            self._idle[sock] = time.monotonic()
            if self._closing:
                _stop_reading(sock)

    def _forget(self, sock: socket.socket) -> None:
        with self._lock:
            self._busy.discard(sock)
            self._idle.pop(sock, None)
            sock.close()
        self._counts.connected(-1)


def serve(
    host: ModelHost,
    address: str,
    *,
    status: Status | None = None,
    allow_remote: bool = False,
    limits: Limits | None = None,
) -> InferenceServer:
    """Listen on `address` and serve in threads of their own; return at once.

    Args:
        host: whose models are served.
        address: "HOST:PORT" (port 0: any free one) or "unix:PATH".
        status: what `GET /v1/status` adds to the host's own account (phases, slots, ...); what it
            says under "models" is merged model by model.
        allow_remote: without it, a TCP address that is not loopback is refused.
        limits: what a client may at most take.

    Raises:
        AddressError: malformed, taken, or not loopback.
    """
    where = Address.parse(address)
    if not where.is_local and not allow_remote:
        raise AddressError(
            f"{where} can be reached from other machines, and the API asks nobody who they are: "
            "expected a loopback address or unix:PATH"
        )
    return InferenceServer(host, where, status=status, limits=limits or Limits())


def _stop_reading(sock: socket.socket) -> None:
    """Let a connection end as if its client had left; a request already received is answered."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)


def _turn_away(sock: socket.socket) -> None:
    response = failure(503, "too many connections: try again later", {"Retry-After": "1"})
    with sock, contextlib.suppress(OSError):
        sock.settimeout(0.1)
        sock.sendall(b"".join(response.to_bytes(keep_alive=False)))
        sock.shutdown(socket.SHUT_WR)


def _linger(sock: socket.socket) -> None:
    """Read on for a moment, so that what is still coming does not wipe out our last response."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        deadline, left = time.monotonic() + _LINGER_S, _LINGER_BYTES
        while left > 0 and (wait := deadline - time.monotonic()) > 0:
            sock.settimeout(wait)
            received = len(sock.recv(1 << 16))
            if not received:
                return
            left -= received
