"""Bad links, without root: a TCP proxy that is slow, cuts, freezes and vanishes when told to.

A `Line` is what a device's radio is: one rate for all that goes over it in one direction. Each
`Proxy` is the way to one server over that line.
"""

import random
import socket
import threading
import time
from contextlib import suppress

CHUNK = 2048  # bytes moved at once
LATE_S = 0.5
# Asked of the kernel on slow lines, so that little is under way when one dies. The kernel itself
# lets so small a window wait for its acknowledgements: it carries about 80 kB/s.
BUFFER = 8192
SLOW = 50_000  # bytes per second


class Line:
    """What goes over the air: `bytes_per_s` in each direction (None: any), `delay_s` one way."""

    def __init__(self, bytes_per_s=None, delay_s=0.0):
        self.bytes_per_s = bytes_per_s
        self.delay_s = delay_s
        self.moved = [0, 0]  # bytes up, bytes down
        self._free = [0.0, 0.0]
        self._lock = threading.Lock()
        self._events = []  # (bytes down, what to do then)

    def when_down(self, count, act):
        """Call `act()` once, as soon as `count` more bytes have come down."""
        with self._lock:
            self._events.append((self.moved[1] + count, act))

    def carry(self, down, count):
        """Wait until `count` bytes have gone over."""
        with self._lock:
            self.moved[down] += count
            now = time.monotonic()
            took = count / self.bytes_per_s if self.bytes_per_s else 0.0
            # A thread that woke late catches up, or a busy machine would pass for a slow line.
            self._free[down] = max(now - LATE_S, self._free[down]) + took
            until = self._free[down] + self.delay_s
            due = [event for event in self._events if event[0] <= self.moved[1]]
            self._events = [event for event in self._events if event not in due]
        for _, act in due:
            act()
        time.sleep(max(0.0, until - now))


class Proxy:
    """Listens on 127.0.0.1:`port` and forwards to (host, port) over a line."""

    def __init__(self, target, line=None, port=0):
        self.target = target
        self.line = line or Line()
        self.connections = 0  # that were ever made
        self._pairs = set()
        self._lock = threading.Lock()
        self._thawed = threading.Event()
        self._thawed.set()
        self._refuses = False
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    # -- trouble -----------------------------------------------------------------------------

    def cut(self):
        """End every connection at once."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            _end(pair)

    def refuse(self, refuses=True):
        """Accept no new connection (they are closed at once), or do again."""
        self._refuses = refuses

    def freeze(self):
        """Let nothing through, and say nothing: half-open connections, as after a dead radio."""
        self._thawed.clear()

    def thaw(self):
        """Let everything through again, also what waited."""
        self._thawed.set()

    def open_connections(self):
        """Return how many there are now."""
        with self._lock:
            return len(self._pairs)

    def close(self):
        self._closed = True
        self._thawed.set()
        _end((self._listener,))
        self._threads[0].join(5)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    # -- forwarding --------------------------------------------------------------------------

    def _accept(self):
        while not self._closed:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                inner.close()
                continue
            thread = threading.Thread(target=self._serve, args=(inner,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, inner):
        try:
            outer = socket.create_connection(self.target, 10)
        except OSError:
            inner.close()
            return
        self.connections += 1
        outer.settimeout(None)
        pair = (inner, outer)
        if (self.line.bytes_per_s or SLOW) < SLOW:
            for sock in pair:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        with self._lock:
            self._pairs.add(pair)
        other = threading.Thread(target=self._pump, args=(outer, inner, 1), daemon=True)
        other.start()
        self._pump(inner, outer, 0)
        other.join()
        with self._lock:
            self._pairs.discard(pair)
        for sock in pair:
            sock.close()

    def _pump(self, source, sink, down):
        with suppress(OSError):
            while data := source.recv(CHUNK):
                self.line.carry(down, len(data))
                self._thawed.wait()
                sink.sendall(data)
        _end((source, sink))


def _end(sockets):
    for sock in sockets:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class Trouble:
    """Disturbs proxies of one line again and again, after random numbers of bytes."""

    def __init__(self, proxies, seed, *, calm_bytes, freeze_s):
        self._proxies = proxies
        self._chance = random.Random(seed)
        self._calm_bytes, self._freeze_s = calm_bytes, freeze_s
        self._over = threading.Event()
        self._due = threading.Event()
        self.done = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self):
        self._over.set()
        self._due.set()
        self._thread.join()
        for proxy in self._proxies:
            proxy.refuse(False)
            proxy.thaw()

    def _run(self):
        line = self._proxies[0].line
        while True:
            self._due.clear()
            if self._over.is_set():
                return
            line.when_down(self._chance.randrange(*self._calm_bytes), self._due.set)
            self._due.wait()
            if self._over.is_set():
                return
            proxy = self._chance.choice(self._proxies)
            kind = self._chance.choice(("cut", "freeze", "refuse"))
            lasts_s = self._chance.uniform(0, self._freeze_s)
            self.done.append(kind)
            if kind == "freeze":
                proxy.freeze()
            else:
                proxy.refuse(kind == "refuse")
                proxy.cut()
            self._over.wait(lasts_s)
            proxy.refuse(False)
            proxy.thaw()
