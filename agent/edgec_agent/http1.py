"""HTTP/1.1 requests off one connection and responses onto it, every wait bounded. No routing."""

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgec_agent.http_head import MAX_HEADERS, Head, HttpError, parse_head
from edgec_agent.limits import Lease, Limits

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_MAX_LINE = 8192
_READ = 1 << 16
_FIRST_ALLOCATION = 1 << 20

REASONS = {
    100: "Continue",
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class Disconnected(Exception):
    """The client closed the connection, or stopped reading from it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request; `body` is decompressed."""

    head: Head
    body: bytes | bytearray = b""


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back. `parts` follow `body` as they are."""

    status: int
    body: bytes
    content_type: str = "application/json"
    parts: tuple[bytes, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self, *, keep_alive: bool, with_body: bool = True) -> list[bytes]:
        """Return what to send, in order."""
        length = len(self.body) + sum(map(len, self.parts))
        lines = [
            f"HTTP/1.1 {self.status} {REASONS[self.status]}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {length}",
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        return [head + self.body, *self.parts] if with_body else [head]


class Stream:
    """One client's bytes, in and out, each wait bounded by a deadline."""

    def __init__(self, sock: socket.socket, limits: Limits) -> None:
        self._sock = sock
        self._limits = limits
        self._buffer = bytearray()

    def wait_for_request(self) -> None:
        """Return when the first byte of a request is there. Raises Disconnected."""
        while True:
            while self._buffer[:2] == b"\r\n":  # RFC 9112, 2.2: empty lines before a request
                del self._buffer[:2]
            if self._buffer and self._buffer != b"\r":
                return
            try:
                self._fill(time.monotonic() + self._limits.idle_s)
            except HttpError:
                raise Disconnected from None

    def read_head(self) -> Head:
        """Return the next request's head. Raises HttpError, Disconnected."""
        deadline = time.monotonic() + self._limits.header_s
        searched = 0
        while (end := self._buffer.find(b"\r\n\r\n", searched)) < 0:
            if len(self._buffer) > self._limits.header_bytes:
                break
            searched = max(0, len(self._buffer) - 3)
            self._fill(deadline)
        if not 0 <= end <= self._limits.header_bytes:
            raise HttpError(431, f"expected at most {self._limits.header_bytes} bytes of headers")
        text = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + 4]
        return parse_head(text)

    def read_body(self, head: Head, lease: Lease) -> bytes | bytearray:
        """Return the body, as sent. Raises HttpError, Disconnected."""
        if head.length == 0:
            return b""
        if "expect" in head.headers:
            if head.headers["expect"].lower() != "100-continue":
                raise HttpError(417, "expected Expect: 100-continue or none")
            if head.length is not None:
                self._check_size(head.length)
            if not self._buffer:
                self.send([b"HTTP/1.1 100 Continue\r\n\r\n"])
        start = time.monotonic()
        if head.length is not None:
            self._check_size(head.length)
            lease.grow(head.length)
            return self._exactly(head.length, self._deadline(start, head.length))
        return self._chunks(start, lease)

    def send(self, parts: list[bytes]) -> None:
        """Send `parts`. Raises Disconnected if the client left or does not read."""
        try:
            self._sock.settimeout(self._limits.write_s)
            for part in parts:
                self._sock.sendall(part)
        except OSError as error:
            raise Disconnected from error

    def _check_size(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise HttpError(413, f"expected at most {self._limits.body_bytes} bytes, got {size}")

    def _deadline(self, start: float, size: int) -> float:
        return start + self._limits.body_s + size / self._limits.body_rate

    def _chunks(self, start: float, lease: Lease) -> bytearray:
        body = bytearray()
        while True:
            line = self._line(self._deadline(start, len(body)))
            found = _CHUNK.fullmatch(line)
            if found is None:
                raise HttpError(400, "expected the size of a chunk in hexadecimal")
            size = int(found[1], 16)
            if size == 0:
                break
            self._check_size(len(body) + size)
            lease.grow(size)
            deadline = self._deadline(start, len(body) + size)
            body += self._exactly(size, deadline)
            if self._exactly(2, deadline) != b"\r\n":
                raise HttpError(400, "expected a line end after a chunk")
        for _ in range(MAX_HEADERS):  # trailers say nothing that is needed here
            if not self._line(self._deadline(start, len(body))):
                return body
        raise HttpError(431, f"expected at most {MAX_HEADERS} trailers")

    def _line(self, deadline: float) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > _MAX_LINE:
                break
            self._fill(deadline)
        if not 0 <= end <= _MAX_LINE:
            raise HttpError(400, f"expected a line of at most {_MAX_LINE} bytes")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _exactly(self, size: int, deadline: float) -> bytearray:
        """Return the next `size` bytes; memory grows as they come, not as they are announced."""
        body = self._buffer[:size]
        del self._buffer[:size]
        filled = len(body)
        body.extend(bytes(min(size, _FIRST_ALLOCATION) - min(filled, size, _FIRST_ALLOCATION)))
        while filled < size:
            if filled == len(body):
                body.extend(bytes(min(len(body), size - filled)))
            with memoryview(body)[filled:] as rest:
                filled += self._receive_into(rest, deadline)
        return body

    def _fill(self, deadline: float) -> None:
        space = bytearray(_READ)
        with memoryview(space) as view:
            received = self._receive_into(view, deadline)
        self._buffer += space[:received]

    def _receive_into(self, view: memoryview, deadline: float) -> int:
        left = deadline - time.monotonic()
        if left <= 0:
            raise HttpError(408, "the request came too slowly")
        try:
            self._sock.settimeout(left)
            received = self._sock.recv_into(view)
        except TimeoutError:
            raise HttpError(408, "the request came too slowly") from None
        except OSError as error:
            raise Disconnected from error
        if not received:
            raise Disconnected
        return received
