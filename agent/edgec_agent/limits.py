"""How much of the device a client may take, and who holds how much of it now."""

import threading
import zlib
from dataclasses import dataclass
from typing import Self

from edgec_agent.http_head import HttpError

_SLICE = 4096  # compressed bytes at a time: they unpack to about 4 MiB at most


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may at most take, in bytes, seconds and connections."""

    header_bytes: int = 16 << 10
    body_bytes: int = 64 << 20  # as sent, and again after decompression
    in_flight_bytes: int = 256 << 20  # bodies of all connections together
    connections: int = 64
    idle_s: float = 120.0  # between two requests
    evictable_s: float = 1.0  # idle for longer, it gives way to a new one when all are taken
    header_s: float = 10.0  # from a request's first byte to its empty line
    body_s: float = 30.0  # for a body, and one second more for each `body_rate` bytes
    body_rate: int = 1 << 20
    write_s: float = 30.0


class Budget:
    """Bytes that all connections together may hold. Not a lock: who asks for too much is told."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Take `size` bytes. Raises HttpError 503 if there are not as many left."""
        with self._lock:
            if size > self._left:
                raise HttpError(503, "too many bytes in flight: try again later")
            self._left -= size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._left += size


class Lease:
    """One request's share of a budget; gives all of it back at the end."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._taken = 0

    def grow(self, size: int) -> None:
        """Take `size` more bytes. Raises HttpError 503."""
        self._budget.take(size)
        self._taken += size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.give(self._taken)


def decompress(body: bytes | bytearray, coding: str, limits: Limits, lease: Lease) -> bytes:
    """Return `body` without its Content-Encoding, gzip or deflate (zlib's or raw).

    Raises:
        HttpError: another coding, damaged, or more than `limits.body_bytes` when unpacked.
    """
    unpacker = zlib.decompressobj(_window_bits(body, coding.strip().lower()))
    parts: list[bytes] = []
    size = 0
    for start in range(0, len(body), _SLICE):
        if unpacker.eof:
            raise HttpError(400, f"the body goes on after its {coding} stream")
        try:
            part = unpacker.decompress(body[start : start + _SLICE], limits.body_bytes - size + 1)
        except zlib.error as error:
            raise HttpError(400, f"the body is not {coding}: {error}") from None
        size += len(part)
        if size > limits.body_bytes:
            raise HttpError(413, f"expected at most {limits.body_bytes} bytes when unpacked")
        lease.grow(len(part))
        parts.append(part)
    if not unpacker.eof or unpacker.unused_data:
        raise HttpError(400, f"the body is not one whole {coding} stream")
    return b"".join(parts)


def _window_bits(body: bytes | bytearray, coding: str) -> int:
    if coding in ("gzip", "x-gzip"):
        return 16 + zlib.MAX_WBITS
    if coding != "deflate":
        raise HttpError(415, "expected Content-Encoding gzip, deflate or identity")
    has_header = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
