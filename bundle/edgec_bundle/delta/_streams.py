"""Reading a hostile patch piece by piece, and writing no more than was promised."""

import bz2
import hashlib

from edgec_bundle.errors import PatchFormatError, PatchLimitError
from edgec_bundle.store import Appender, BlobReader

_COMPRESSED_CHUNK = 16 << 10
_BUFFER_BYTES = 64 << 10


class Window:
    """A `BlobReader` over `size` bytes of another from `start` on."""

    def __init__(self, blob: BlobReader, start: int, size: int) -> None:
        if start + size > blob.size:
            raise PatchFormatError(f"expected {start + size} bytes of patch, got {blob.size}")
        self._blob = blob
        self._start = start
        self.size: int = size

    def pread(self, n: int, offset: int) -> bytes:
        """Return `n` bytes from `offset`; fewer only where the window ends."""
        return self._blob.pread(max(0, min(n, self.size - offset)), self._start + offset)

    def read(self) -> bytes:
        """Return all bytes."""
        return self.pread(self.size, 0)


class Bz2Stream:
    """What a bz2 stream decompresses to, at most 64 KiB of it ahead of the reader.

    An empty `blob` stands for no bytes. The decompressor itself takes up to 4 MiB.
    """

    def __init__(self, blob: BlobReader, what: str) -> None:
        self._blob = blob
        self._what = what
        self._fed = 0
        self._decompressor = bz2.BZ2Decompressor() if blob.size else None
        self._buffer = b""
        self._at = 0

    def read(self, n: int) -> bytes:
        """Return the next `n` bytes. Raises PatchFormatError if there are fewer."""
        available = len(self._buffer) - self._at
        if available < n:
            self._buffer = self._buffer[self._at :] + self._decompress(n - available)
            self._at = 0
        piece = self._buffer[self._at : self._at + n]
        if len(piece) != n:
            raise PatchFormatError(f"expected more bytes in the {self._what} of the patch")
        self._at += n
        return piece

    def read_up_to(self, n: int) -> bytes:
        """Return the next `n` bytes, or fewer where the stream ends."""
        if self._at == len(self._buffer):
            self._buffer, self._at = self._decompress(n), 0
        piece = self._buffer[self._at : self._at + n]
        self._at += len(piece)
        return piece

    def finish(self) -> None:
        """Return if everything was read. Raises PatchFormatError."""
        left_over = self._at != len(self._buffer) or bool(self._decompress(1))
        if left_over or self._fed != self._blob.size:
            raise PatchFormatError(f"expected no further bytes in the {self._what} of the patch")
        if self._decompressor is not None and (
            not self._decompressor.eof or self._decompressor.unused_data
        ):
            raise PatchFormatError(
                f"the patch is damaged: its {self._what} ends in the wrong place"
            )

    def _decompress(self, wanted: int) -> bytes:
        """Return at least `wanted` bytes, fewer only where the stream ends; a buffer at most."""
        if self._decompressor is None:
            return b""
        parts: list[bytes] = []
        produced = 0
        while produced < wanted and not self._decompressor.eof:
            fed = b""
            if self._decompressor.needs_input:
                fed = self._blob.pread(_COMPRESSED_CHUNK, self._fed)
                if not fed:
                    break
                self._fed += len(fed)
            try:
                limit = max(wanted, _BUFFER_BYTES) - produced
                part = self._decompressor.decompress(fed, limit)
            except (OSError, ValueError, EOFError) as error:
                raise PatchFormatError(f"{self._what} of the patch: {error}") from error
            parts.append(part)
            produced += len(part)
        return b"".join(parts)


class CheckedAppender:
    """An `Appender` that hands on at most `limit` bytes, and hashes them."""

    def __init__(self, out: Appender, limit: int) -> None:
        self._out = out
        self._limit = limit
        self._hasher = hashlib.sha256()
        self.written = 0

    def append(self, data: bytes) -> None:
        """Add `data` at the end. Raises PatchLimitError beyond the limit."""
        if self.written + len(data) > self._limit:
            raise PatchLimitError(f"expected {self._limit} bytes, but the patch makes more")
        self.written += len(data)
        self._hasher.update(data)
        self._out.append(data)

    @property
    def sha256(self) -> str:
        """The digest of what was appended."""
        return self._hasher.hexdigest()


class Collector:
    """An `Appender` into memory."""

    def __init__(self) -> None:
        self._parts = bytearray()

    def append(self, data: bytes) -> None:
        """Add `data` at the end."""
        self._parts += data

    def collected(self) -> bytes:
        """Return everything that was appended."""
        return bytes(self._parts)
