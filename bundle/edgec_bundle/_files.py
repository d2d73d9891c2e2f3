"""Durable steps on a local file system: lock, fsync, replace."""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgec_bundle.errors import BlobBusyError, NoSpaceError, StoreError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def store_errors(wanted_bytes: int) -> Iterator[None]:
    """Turn an OSError into a StoreError; a full file system into NoSpaceError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpaceError(wanted_bytes=wanted_bytes, free_bytes=0) from error
        raise StoreError(f"storage failed: {error}") from error


def locked(path: Path, *, create: bool = True) -> int:
    """Return a descriptor of `path`, open for reading and writing, that this process alone holds.

    The lock ends with the descriptor, also when the process is killed.

    Raises:
        BlobBusyError: somebody else holds it.
        FileNotFoundError: it is not there and `create` is false.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    for _ in range(100):
        fd = os.open(path, flags, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise BlobBusyError(f"somebody else is writing {path.name}") from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # its last holder renamed or removed it while we waited
    raise BlobBusyError(f"somebody else keeps replacing {path.name}")


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def pwrite_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written


def reserve(fd: int, path: Path, size: int, keep_free_bytes: int) -> None:
    """Give the file its full `size` on disk now.

    Raises:
        NoSpaceError: less than `keep_free_bytes` would be left for others.
    """
    held = os.fstat(fd).st_blocks * 512
    free = max(0, shutil.disk_usage(path.parent).free - keep_free_bytes)
    if size - held > free:
        raise NoSpaceError(wanted_bytes=size - held, free_bytes=free)
    if size == 0:
        return
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:  # macOS: room is checked, not reserved
            os.ftruncate(fd, size)
    except OSError as error:
        if error.errno in _FULL:
            raise NoSpaceError(wanted_bytes=size - held, free_bytes=free) from error
        raise


def drop_cache(fd: int) -> None:
    """Make the next reads of the fsynced file come from disk, not from memory, where possible."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there takes its place, or nothing."""
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """Write `data` as the new file `path` and fsync it."""
    with open(path, "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def replace_folder(fresh: Path, path: Path) -> None:
    """Give the finished folder `fresh` the name `path`, in place of what is there.

    A kill leaves the old folder (perhaps under a ``.old`` name beside it) or the new one, whole.
    """
    old: Path | None = None
    if path.exists():
        old = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.old")
        os.rename(path, old)
    try:
        os.rename(fresh, path)
    except BaseException:
        if old is not None:
            os.rename(old, path)
        raise
    fsync_folder(path.parent)
    if old is not None:
        shutil.rmtree(old)
