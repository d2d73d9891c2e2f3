"""gunicorn's threaded worker, which slow clients cannot occupy.

- A connection takes a thread when its first byte is there, not before.
- While it has one it lives on a budget of seconds, which every byte moved refills: whoever is
  slower than `BYTES_PER_S` for long is cut off, in the handshake, the head, the body and the
  answer alike. A device at 2 kB/s is well above that.
- One address holds at most `http_per_client` threads; its further connections wait their turn.

Bytes are counted by the kernel (TCP_INFO), so that it does not matter who reads or writes them.
"""

import functools
import selectors
import socket
import sys
import time
from collections import Counter, deque
from concurrent import futures
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import TConn, ThreadWorker

BYTES_PER_S = 512.0
HEAD_S = 10.0  # for TLS and the request's head, without a byte to its credit
DEVICES_S = 60.0  # for body, work and answer at the devices' listener
OPERATORS_S = 600.0  # at the other one, where a publication takes its time
PER_ADDRESS = 512  # connections, threads or not
_TCP_INFO = getattr(socket, "TCP_INFO", None)
_ACKED, _RECEIVED = slice(120, 128), slice(128, 136)  # in Linux's struct tcp_info


class Budget:
    """How many seconds a connection may still hold its thread."""

    def __init__(self, most_s: float, moved: int, now: float) -> None:
        self._most_s = self._left_s = most_s
        self._moved = moved
        self._at = now

    def renew(self, most_s: float) -> None:
        """Begin another part of the request, with a budget of its own."""
        self._most_s = self._left_s = most_s

    def is_spent(self, moved: int, now: float) -> bool:
        """Note that `moved` bytes have moved in all by now; return whether time is up."""
        earned_s = (moved - self._moved) / BYTES_PER_S
        self._left_s = min(self._most_s, self._left_s + earned_s - (now - self._at))
        self._moved, self._at = moved, now
        return self._left_s <= 0


class PatientWorker(ThreadWorker):  # type: ignore[misc]
    """See the module. Everything but `handle` and `handle_request` runs on the main thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._budgets: dict[TConn, Budget] = {}
        self._held: Counter[str] = Counter()  # threads, by address
        self._waiting: dict[str, deque[TConn]] = {}  # for one of its address's threads
        self._work_s = DEVICES_S if self.app.name == "devices" else OPERATORS_S

    def enqueue_req(self, conn: TConn) -> None:
        """Give the connection a thread as soon as it has something to say, and it is its turn."""
        address = conn.client[0]
        if not conn.initialized and not conn.data_ready:
            if self._connections(address) >= PER_ADDRESS:
                self._drop(conn)
            else:
                self._await_first_byte(conn)
        elif self._held[address] >= self.app.settings.http_per_client:
            self._waiting.setdefault(address, deque()).append(conn)
        else:
            self._held[address] += 1
            super().enqueue_req(conn)

    def finish_request(self, conn: TConn, fs: "futures.Future[Any]") -> None:
        """Pass the thread on."""
        super().finish_request(conn, fs)
        address = conn.client[0]
        self._held[address] -= 1
        if not self._held[address]:
            del self._held[address]
        waiting = self._waiting.get(address)
        if waiting:
            following = waiting.popleft()
            if not waiting:
                del self._waiting[address]
            self.enqueue_req(following)

    def murder_pending(self) -> None:
        """Close what waited too long; called every second."""
        super().murder_pending()
        now = time.monotonic()
        for conn, budget in list(self._budgets.items()):
            moved = moved_bytes(conn.sock)
            if moved is not None and budget.is_spent(moved, now):
                self.log.info("cut off: %s is too slow", conn.client[0])
                end(conn.sock)

    def handle(self, conn: TConn) -> Any:
        """Handle one request, watched."""
        self._budgets[conn] = Budget(HEAD_S, moved_bytes(conn.sock) or 0, time.monotonic())
        try:
            result = super().handle(conn)
            if not result:
                # It may take the client two seconds to hang up: not on the main thread.
                with suppress(OSError):
                    conn.close(graceful=True)
                conn.close = lambda graceful=False: None
            return result
        finally:
            self._budgets.pop(conn, None)

    def handle_request(self, req: Any, conn: TConn) -> Any:
        """Run the application, now that the head is here."""
        budget = self._budgets.get(conn)
        if budget is not None:
            budget.renew(self._work_s)
        return super().handle_request(req, conn)

    def _await_first_byte(self, conn: TConn) -> None:
        conn.sock.setblocking(False)
        conn.set_timeout()
        self.pending_conns.append(conn)
        callback = functools.partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, callback)

    def _connections(self, address: str) -> int:
        """Return how many connections `address` has."""
        resting = (*self.pending_conns, *self.keepalived_conns, *self._waiting.get(address, ()))
        return len([one for one in resting if one.client[0] == address]) + self._held[address]

    def _drop(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()


def moved_bytes(sock: socket.socket) -> int | None:
    """Return how many bytes came, and went and were acknowledged; None: the system can't say."""
    if _TCP_INFO is None:
        return None
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _RECEIVED.stop)
    except OSError:  # closed, or about to become a TLS socket
        return None
    if len(raw) < _RECEIVED.stop:
        return None
    acked, received = (int.from_bytes(raw[one], sys.byteorder) for one in (_ACKED, _RECEIVED))
    return acked + received


def end(sock: socket.socket) -> None:
    """End the connection under the thread that reads or writes it."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not ssl's, which disturbs that thread
