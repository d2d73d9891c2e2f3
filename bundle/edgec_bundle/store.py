"""Blobs by digest, behind an interface small enough for a folder, a bucket or an encrypted disk.

`FolderBlobStore` keeps blob ``ab12..`` as ``ab/ab12..`` and is safe for any number of processes:
a blob appears under its name only whole, verified from disk and fsynced. What is being written
lies under ``partial/``, locked by its writer; see `edgec_bundle._partial`.
"""

import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from weakref import WeakValueDictionary

from edgec_bundle._files import fsync_folder, locked, store_errors
from edgec_bundle._partial import DEFAULT_BLOCK_BYTES, FolderPartialBlob, missing_blocks
from edgec_bundle.digest import is_digest, sha256_hex
from edgec_bundle.errors import BlobBusyError, BlobMissingError, DigestMismatchError, StoreError

__all__ = [
    "DEFAULT_BLOCK_BYTES",
    "Appender",
    "BlobReader",
    "BlobStore",
    "BytesReader",
    "FileReader",
    "FolderBlobStore",
    "FolderPartialBlob",
    "PartialBlob",
    "missing_blocks",
    "sha256_of",
]

_CHUNK = 1 << 20


class BlobReader(Protocol):
    """Bytes that can be read from any place."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def pread(self, n: int, offset: int) -> bytes:
        """Return `n` bytes from `offset`; fewer only where the blob ends."""

    def read(self) -> bytes:
        """Return all bytes."""


class Appender(Protocol):
    """Where bytes go one after the other."""

    def append(self, data: bytes) -> None:
        """Add `data` at the end."""


class PartialBlob(Protocol):
    """A blob that is still being written, in blocks in any order, or from its start to its end.

    A kill at any instant loses at most what was being written: `BlobStore.begin` with the same
    arguments resumes, and never claims a block that isn't on disk.
    """

    @property
    def digest(self) -> str:
        """The sha256 that all bytes together must have."""

    @property
    def size(self) -> int:
        """How many bytes there will be."""

    @property
    def block_bytes(self) -> int:
        """How many bytes each block has; only the last may have fewer."""

    @property
    def blocks(self) -> int:
        """How many blocks there are."""

    def write_block(self, index: int, data: bytes) -> None:
        """Store block `index`; does nothing if it is there already."""

    def has_block(self, index: int) -> bool:
        """Return whether block `index` is on disk."""

    def missing(self) -> tuple[int, ...]:
        """Return the blocks that are not on disk, in order."""

    def missing_bitmap(self, first: int = 0) -> bytes:
        """Return one bit per block from `first` on: 1 if missing; byte 0 and lowest bit first."""

    def append(self, data: bytes) -> None:
        """Write `data` after what this object appended before; the first call starts at byte 0."""

    def commit(self) -> None:
        """Make the blob appear in the store, re-read from disk and verified.

        Raises:
            DigestMismatchError: it has another digest; everything written is discarded.
            StoreError: blocks are missing.
        """

    def discard(self) -> None:
        """Forget everything that was written."""

    def close(self) -> None:
        """Let go of the blob; what was written stays for the next `BlobStore.begin`."""


class BlobStore(Protocol):
    """Whole, verified blobs by their sha256."""

    def has(self, digest: str) -> bool:
        """Return whether the blob is there."""

    def open(self, digest: str) -> BlobReader:
        """Return a reader of the blob. Raises BlobMissingError."""

    def read(self, digest: str) -> bytes:
        """Return the blob, verified again. Raises BlobMissingError, DigestMismatchError."""

    def put(self, data: bytes) -> str:
        """Store `data` and return its digest. Raises NoSpaceError."""

    def begin(self, digest: str, size: int, block_bytes: int = DEFAULT_BLOCK_BYTES) -> PartialBlob:
        """Start or resume writing a blob, with room reserved. Raises NoSpaceError."""

    def delete(self, digest: str) -> None:
        """Remove the blob if it is there."""

    def digests(self) -> Iterator[str]:
        """Return the digests of all blobs, in order."""


class BytesReader:
    """A `BlobReader` over bytes in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self._data)

    def pread(self, n: int, offset: int) -> bytes:
        """Return `n` bytes from `offset`; fewer only where the bytes end."""
        return self._data[offset : offset + n]

    def read(self) -> bytes:
        """Return all bytes."""
        return self._data


class FileReader:
    """A `BlobReader` over a regular file. Holds it open, so deleting it does no harm."""

    def __init__(self, path: Path) -> None:
        """Open `path`. Raises OSError, also if it is not a regular file."""
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(f"expected a regular file: {path}")
        self.size: int = status.st_size

    def pread(self, n: int, offset: int) -> bytes:
        """Return `n` bytes from `offset`; fewer only where the file ends."""
        parts: list[bytes] = []
        while n > 0:
            part = os.pread(self._fd, n, offset)
            if not part:
                break
            parts.append(part)
            n -= len(part)
            offset += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read(self) -> bytes:
        """Return all bytes."""
        return self.pread(self.size, 0)

    def close(self) -> None:
        """Close the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def sha256_of(reader: BlobReader) -> str:
    """Return the sha256 of all bytes of `reader`, read in pieces of 1 MiB."""
    hasher = hashlib.sha256()
    for offset in range(0, reader.size, _CHUNK):
        hasher.update(reader.pread(min(_CHUNK, reader.size - offset), offset))
    return hasher.hexdigest()


class FolderBlobStore:
    """A `BlobStore` in a folder of a local file system.

    One object may be used by several threads, and several objects and processes may share the
    folder. A blob that is being written in one of them is busy for the others.
    """

    def __init__(self, root: Path, keep_free_bytes: int = 4 << 20) -> None:
        """Use `root`, making it when it's not there, and clear away what killed writers left.

        Args:
            root: the folder.
            keep_free_bytes: what `begin` leaves of the file system to those who share it, so
                that a download can't keep the agent from writing down its own state.

        Raises:
            StoreError: the folder can't be made or read.
        """
        self.root = Path(root)
        self._keep_free_bytes = keep_free_bytes
        self._partial = self.root / "partial"
        self._live: WeakValueDictionary[str, FolderPartialBlob] = WeakValueDictionary()
        with store_errors(0):
            self._partial.mkdir(parents=True, exist_ok=True)
            self._sweep()

    def has(self, digest: str) -> bool:
        """Return whether the blob is there."""
        return self._path(digest).is_file()

    def open(self, digest: str) -> FileReader:
        """Return a reader of the blob, which was verified when it was stored.

        Raises:
            BlobMissingError: it is not there.
        """
        try:
            return FileReader(self._path(digest))
        except FileNotFoundError:
            raise BlobMissingError(digest) from None
        except OSError as error:
            raise StoreError(f"can't open blob {digest}: {error}") from error

    def read(self, digest: str) -> bytes:
        """Return the blob, verified again, for storage rots.

        Raises:
            BlobMissingError: it is not there.
            DigestMismatchError: it is no longer what was stored.
        """
        with self.open(digest) as reader, store_errors(0):
            data = reader.read()
        found = sha256_hex(data)
        if found != digest:
            raise DigestMismatchError(expected=digest, found=found, what="a stored blob")
        return data

    def put(self, data: bytes) -> str:
        """Store `data` and return its digest. Storing it again does nothing.

        Raises:
            NoSpaceError: the file system is full.
        """
        digest = sha256_hex(data)
        path = self._path(digest)
        with store_errors(len(data)):
            if path.is_file() and path.stat().st_size == len(data):
                return digest
            temporary = self._partial / f"{digest}.{secrets.token_hex(8)}.put"
            fd = locked(temporary)
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                os.fsync(fd)
                self._publish(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
                os.close(fd)
        return digest

    def begin(
        self, digest: str, size: int, block_bytes: int = DEFAULT_BLOCK_BYTES
    ) -> FolderPartialBlob:
        """Start writing a blob of `size` bytes, or resume if it was begun before.

        Room for all of it is reserved. If this object began the blob before, the earlier
        `FolderPartialBlob` is closed first.

        Raises:
            BlobBusyError: another process or store object is writing this blob.
            NoSpaceError: there is no room for it.
            StoreError: more than a million blocks.
        """
        path = self._path(digest)
        earlier = self._live.pop(digest, None)
        if earlier is not None:
            earlier.close()
        partial = FolderPartialBlob(
            self._partial,
            digest,
            size,
            block_bytes,
            lambda part: self._publish(part, path),
            self._keep_free_bytes,
        )
        self._live[digest] = partial
        return partial

    def delete(self, digest: str) -> None:
        """Remove the blob if it is there. Open readers keep what they have."""
        with store_errors(0):
            self._path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Return the digests of all blobs, in order."""
        with store_errors(0):
            folders = sorted(
                path for path in self.root.iterdir() if len(path.name) == 2 and path.is_dir()
            )
            names = [name for folder in folders for name in sorted(os.listdir(folder))]
        return iter([name for name in names if is_digest(name)])

    def partials(self) -> tuple[str, ...]:
        """Return the digests of the blobs that were begun and not finished, in order."""
        with store_errors(0):
            names = (path.name for path in self._partial.glob("*.part"))
            return tuple(sorted(name[:-5] for name in names if is_digest(name[:-5])))

    def discard_partial(self, digest: str) -> None:
        """Forget what was begun of the blob and not finished, if anything.

        Raises:
            BlobBusyError: another process or store object is writing it.
        """
        self._path(digest)  # refuses what isn't a digest
        earlier = self._live.pop(digest, None)
        if earlier is not None:
            earlier.close()
        FolderPartialBlob.remove(self._partial, digest)

    def _path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise StoreError(f"expected a sha256, got {digest!r:.80}")
        return self.root / digest[:2] / digest

    def _publish(self, temporary: Path, path: Path) -> None:
        """Give the finished file its name, so that a power cut leaves it or nothing."""
        if not path.parent.is_dir():
            path.parent.mkdir(exist_ok=True)
            fsync_folder(self.root)
        os.replace(temporary, path)
        fsync_folder(path.parent)
        fsync_folder(temporary.parent)

    def _sweep(self) -> None:
        """Remove the files of `put` calls that were killed: those whose lock is free."""
        for temporary in self._partial.glob("*.put"):
            try:
                fd = locked(temporary, create=False)
            except (BlobBusyError, FileNotFoundError):
                continue
            temporary.unlink(missing_ok=True)
            os.close(fd)
