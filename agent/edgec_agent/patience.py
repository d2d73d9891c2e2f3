"""How long an HTTP server's answer is waited for: http.client only bounds each read.

A server that sends a byte now and then, in a header, in a chunk's length, in one interim answer
after the other, keeps every read short and the whole without end.
"""

import http.client
import io
import socket
import time
from collections.abc import Callable
from typing import Any

from edgec_agent.interrupt import Interrupt


class Patience:
    """A bound for one read, and one for all reads since `restart`."""

    def __init__(
        self,
        read_s: float,
        whole_s: float,
        interrupt: Interrupt | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Let a read take `read_s`, all reads `whole_s`; `interrupt` ends them between two."""
        self._read_s = read_s
        self._whole_s = whole_s
        self._interrupt = interrupt
        self._clock = clock
        self._until = clock() + whole_s

    def restart(self) -> None:
        """Begin to wait for the next part."""
        self._until = self._clock() + self._whole_s

    def read_s(self) -> float:
        """Return how long the next read may take.

        Raises:
            TimeoutError: no time is left.
            InterruptedWorkError: something more urgent came.
        """
        if self._interrupt is not None:
            self._interrupt.check()
        left_s = self._until - self._clock()
        if left_s <= 0:
            raise TimeoutError(f"took longer than {self._whole_s:g} s")
        return min(left_s, self._read_s)


def bound(connection: http.client.HTTPConnection, patience: Patience) -> None:
    """Make `connection` read its answers, headers and all, with no more than `patience`."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **more: Any) -> None:
            super().__init__(sock, *arguments, **more)
            raw = self.fp.detach()
            self.fp = io.BufferedReader(_Reads(raw, sock, patience))

    connection.response_class = Response


class _Reads(io.RawIOBase):
    """What a socket's file reads, each read within what patience is left."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, patience: Patience) -> None:
        self._raw = raw
        self._sock = sock
        self._patience = patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._patience.read_s())
        try:
            return self._raw.readinto(buffer)
        except TimeoutError:
            self._patience.read_s()  # says so if it was the whole that took too long
            raise

    def close(self) -> None:
        self._raw.close()
        super().close()
