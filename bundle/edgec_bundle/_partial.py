"""One blob on its way into a `FolderBlobStore`: two files, the bytes and the map of blocks.

``DIGEST.part`` holds the bytes, at full size from the start, and is locked while somebody writes.
``DIGEST.map`` holds a header and, for each block, the first 8 bytes of its BLAKE2b (zero: not
there). A block counts as present only if its bytes still match the map when the blob is begun
again, so neither a kill between two writes nor a power cut that kept the map but lost the bytes
can make the map claim a block that isn't on disk, and no block needs an fsync of its own.
"""

import hashlib
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from edgec_bundle._files import (
    drop_cache,
    fsync_folder,
    locked,
    pwrite_all,
    reserve,
    store_errors,
)
from edgec_bundle.errors import DigestMismatchError, NoSpaceError, StoreError

DEFAULT_BLOCK_BYTES = 131072
MAX_BLOCK_BYTES = 1 << 31
MAX_BLOCKS = 1 << 20

_HEADER = struct.Struct("<4sIQ32s16x")  # magic, block bytes, size, sha256: 64 bytes
_MAGIC = b"EDM1"
_ENTRY_BYTES = 8
_ABSENT = bytes(_ENTRY_BYTES)
_CHUNK = 1 << 20


def missing_blocks(first: int, bitmap: bytes, blocks: int) -> tuple[int, ...]:
    """Return the blocks that a `missing_bitmap` names, in order, none beyond `blocks`."""
    return tuple(
        index
        for byte_at, byte in enumerate(bitmap)
        if byte
        for bit in range(8)
        if byte >> bit & 1 and 0 <= (index := first + 8 * byte_at + bit) < blocks
    )


class FolderPartialBlob:
    """A `PartialBlob` in a folder. May be used by several threads."""

    def __init__(
        self,
        folder: Path,
        digest: str,
        size: int,
        block_bytes: int,
        publish: Callable[[Path], None],
        keep_free_bytes: int,
    ) -> None:
        """Create or resume; `publish` moves the finished file to its place.

        Raises:
            BlobBusyError, NoSpaceError, StoreError: see `FolderBlobStore.begin`.
        """
        if not 1 <= block_bytes <= MAX_BLOCK_BYTES or not 0 <= size <= block_bytes * MAX_BLOCKS:
            raise StoreError(
                f"expected at most {MAX_BLOCKS} blocks of 1 to {MAX_BLOCK_BYTES} bytes, "
                f"got {size} bytes in blocks of {block_bytes}"
            )
        self.digest = digest
        self.size = size
        self.block_bytes = block_bytes
        self.blocks = -(-size // block_bytes)
        self._part = folder / f"{digest}.part"
        self._map = folder / f"{digest}.map"
        self._publish = publish
        self._keep_free_bytes = keep_free_bytes
        self._lock = threading.RLock()
        self._pending = bytearray()  # appended, not yet a whole block
        self._appended: int | None = None  # bytes so far
        self._fd = self._map_fd = -1
        self._present = bytearray(self.blocks)
        with store_errors(size):
            self._open()

    @staticmethod
    def remove(folder: Path, digest: str) -> None:
        """Remove what is left of `digest` in `folder`. Raises BlobBusyError."""
        with store_errors(0):
            try:
                fd = locked(folder / f"{digest}.part", create=False)
            except FileNotFoundError:
                return
            (folder / f"{digest}.map").unlink(missing_ok=True)
            (folder / f"{digest}.part").unlink(missing_ok=True)
            os.close(fd)

    def write_block(self, index: int, data: bytes) -> None:
        """Store block `index`; does nothing if it is there already.

        Raises:
            StoreError: there is no such block, or `data` isn't as long as it must be.
        """
        expected = self._block_size(index)
        if len(data) != expected:
            raise StoreError(f"expected {expected} bytes as block {index}, got {len(data)}")
        with self._lock, store_errors(expected):
            self._check_open()
            if self._present[index]:
                return
            pwrite_all(self._fd, data, index * self.block_bytes)
            at = _HEADER.size + index * _ENTRY_BYTES
            pwrite_all(self._map_fd, _entry(data), at)
            self._present[index] = 1

    def has_block(self, index: int) -> bool:
        """Return whether block `index` is on disk."""
        return 0 <= index < self.blocks and bool(self._present[index])

    def missing(self) -> tuple[int, ...]:
        """Return the blocks that are not on disk, in order."""
        with self._lock:
            return tuple(index for index, present in enumerate(self._present) if not present)

    def missing_bitmap(self, first: int = 0) -> bytes:
        """Return one bit per block from `first` on: 1 if missing; byte 0 and lowest bit first."""
        with self._lock:
            rest = self._present[first:]
        bitmap = bytearray(-(-len(rest) // 8))
        for position, present in enumerate(rest):
            if not present:
                bitmap[position >> 3] |= 1 << (position & 7)
        return bytes(bitmap)

    def append(self, data: bytes) -> None:
        """Write `data` after what this object appended before; the first call starts at byte 0.

        Raises:
            StoreError: more bytes than the blob has.
        """
        with self._lock:
            self._check_open()
            if self._appended is None:
                self._forget_blocks()
                self._appended = 0
            if self._appended + len(data) > self.size:
                raise StoreError(
                    f"expected {self.size} bytes, got at least {self._appended + len(data)}"
                )
            self._appended += len(data)
            self._pending += data
            at_end = self._appended == self.size
            while len(self._pending) >= self.block_bytes or (at_end and self._pending):
                index = (self._appended - len(self._pending)) // self.block_bytes
                self.write_block(index, bytes(self._pending[: self.block_bytes]))
                del self._pending[: self.block_bytes]

    def commit(self) -> None:
        """Make the blob appear in the store, re-read from disk and verified.

        Raises:
            DigestMismatchError: it has another digest; everything written is discarded.
            StoreError: blocks are missing.
        """
        with self._lock, store_errors(0):
            self._check_open()
            if absent := self._present.count(0):
                raise StoreError(f"expected all {self.blocks} blocks, {absent} are missing")
            os.fsync(self._fd)
            drop_cache(self._fd)
            found = self._sha256()
            if found != self.digest:
                self.discard()
                raise DigestMismatchError(expected=self.digest, found=found, what="a blob")
            self._publish(self._part)
            self._map.unlink(missing_ok=True)
            self.close()

    def discard(self) -> None:
        """Forget everything that was written."""
        with self._lock, store_errors(0):
            self._check_open()
            self._map.unlink(missing_ok=True)
            self._part.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Let go of the blob; what was written stays for the next `FolderBlobStore.begin`."""
        with self._lock:
            for fd in (self._fd, self._map_fd):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._map_fd = -1

    def __del__(self) -> None:
        if hasattr(self, "_map_fd"):
            self.close()

    def _open(self) -> None:
        self._fd = locked(self._part)
        try:
            self._map_fd = os.open(self._map, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            header = _HEADER.pack(_MAGIC, self.block_bytes, self.size, bytes.fromhex(self.digest))
            resumable = os.fstat(self._fd).st_size == self.size
            if resumable and os.pread(self._map_fd, _HEADER.size, 0) == header:
                self._find_present()
            else:
                self._start(header)
            reserve(self._fd, self._part, self.size, self._keep_free_bytes)
        except NoSpaceError:
            if not any(self._present):
                self.discard()
            self.close()
            raise
        except BaseException:
            self.close()
            raise

    def _start(self, header: bytes) -> None:
        os.ftruncate(self._map_fd, 0)
        os.ftruncate(self._fd, 0)
        reserve(self._fd, self._part, self.size, self._keep_free_bytes)
        os.ftruncate(self._map_fd, _HEADER.size + self.blocks * _ENTRY_BYTES)
        pwrite_all(self._map_fd, header, 0)
        fsync_folder(self._part.parent)

    def _find_present(self) -> None:
        """Believe the map only where the bytes on disk agree with it."""
        entries = os.pread(self._map_fd, self.blocks * _ENTRY_BYTES, _HEADER.size)
        for index in range(self.blocks):
            claimed = entries[index * _ENTRY_BYTES : (index + 1) * _ENTRY_BYTES]
            if len(claimed) == _ENTRY_BYTES and claimed != _ABSENT:
                data = os.pread(self._fd, self._block_size(index), index * self.block_bytes)
                self._present[index] = _entry(data) == claimed

    def _forget_blocks(self) -> None:
        with store_errors(0):
            pwrite_all(self._map_fd, _ABSENT * self.blocks, _HEADER.size)
        self._present = bytearray(self.blocks)

    def _block_size(self, index: int) -> int:
        if not 0 <= index < self.blocks:
            raise StoreError(f"expected a block of 0 to {self.blocks - 1}, got {index}")
        return min(self.block_bytes, self.size - index * self.block_bytes)

    def _check_open(self) -> None:
        if self._fd < 0:
            raise StoreError(f"the writer of blob {self.digest} was closed")

    def _sha256(self) -> str:
        hasher = hashlib.sha256()
        for offset in range(0, self.size, _CHUNK):
            hasher.update(os.pread(self._fd, min(_CHUNK, self.size - offset), offset))
        return hasher.hexdigest()


def _entry(data: bytes) -> bytes:
    digest = hashlib.blake2b(data, digest_size=_ENTRY_BYTES).digest()
    return digest if digest != _ABSENT else b"\xff" * _ENTRY_BYTES
