"""`request`: the blocks of one blob that a device still lacks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from edgec_bundle.errors import MessageError
from edgec_bundle.messages.message import Message, parse_rfc3339
from edgec_bundle.messages.topics import MAX_BLOCK

MAX_BITMAP_BYTES = 12 * 1024  # 98 304 blocks, 12 GiB in blocks of 128 KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """Device to server: publish these blocks of blob `digest`.

    Bit i of `bitmap` (byte 0 first, lowest bit first) stands for block ``first + i``.
    """

    KIND: ClassVar[str] = "request"
    MAX_BYTES: ClassVar[int] = 32 * 1024

    digest: str
    first: int
    bitmap: bytes
    block_bytes: int

    def blocks(self) -> tuple[int, ...]:
        """Return the numbers of the wanted blocks, ascending."""
        return tuple(self.each_block())

    def each_block(self) -> Iterator[int]:
        """Yield the numbers of the wanted blocks, ascending; there may be 98 304 of them."""
        for index, byte in enumerate(self.bitmap):
            for bit in range(8):
                if byte >> bit & 1:
                    yield self.first + 8 * index + bit

    def check(self) -> None:
        """Raise MessageError for what JSON Schema can't say."""
        parse_rfc3339(self.at)
        if not 0 < len(self.bitmap) <= MAX_BITMAP_BYTES:
            raise MessageError(f"expected a bitmap of 1 to {MAX_BITMAP_BYTES} bytes")
        if self.first + 8 * len(self.bitmap) > MAX_BLOCK:
            raise MessageError("the bitmap ends past the last possible block")


def bitmap_of(blocks: Iterable[int], first: int) -> bytes:
    """Return the bitmap that starts at `first` and names `blocks`; the inverse of `blocks()`.

    Raises:
        ValueError: no blocks, one before `first`, or more than a request can hold.
    """
    wanted = [block - first for block in blocks]
    if not wanted or min(wanted) < 0 or max(wanted) >= 8 * MAX_BITMAP_BYTES:
        raise ValueError("expected blocks within one bitmap")
    bitmap = bytearray(max(wanted) // 8 + 1)
    for offset in wanted:
        bitmap[offset // 8] |= 1 << offset % 8
    return bytes(bitmap)
