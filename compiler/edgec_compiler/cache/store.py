"""A folder of entries by key, which any number of processes use at once.

An entry is believed only if its digest, which covers its key, is right; anything else counts as
absent and is made anew. Entries hold JSON and plain bytes, so that reading one runs nothing. The
cache is a convenience: when its folder cannot be written, runs are slower and nothing else.
"""

import contextlib
import hashlib
import json
import os
import secrets
import stat
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec_compiler.errors import UsageError

LIMIT_BYTES = 4 << 30
LIMIT_VARIABLE = "EDGEC_CACHE_BYTES"
_MAGIC = b"edgec-c1"
_HEAD = struct.Struct(">8s32sI")  # magic, sha256 of key and body, length of the JSON header
_MAX_HEADER_BYTES = 64 << 20
_KEPT_SHARE = 0.9  # of the limit, after an eviction
_ABANDONED_S = 3600.0  # after which a temporary file belongs to a run that was killed


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept under one key: JSON values, and named bytes."""

    facts: Mapping[str, Any]
    blobs: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Store:
    """Entries below `root`; the least recently used go when all exceed `limit_bytes`."""

    root: Path
    limit_bytes: int = LIMIT_BYTES

    def get(self, key: str) -> Entry | None:
        """Return the entry of `key`, or None; a damaged one is removed."""
        file = self._file(key)
        try:
            payload = _read(file, self.limit_bytes)
        except OSError:
            return None
        entry = _parse(key, payload)
        with contextlib.suppress(OSError):
            if entry is None:
                file.unlink()
            else:
                os.utime(file)  # the time of the last use is the order of eviction
        return entry

    def put(self, key: str, entry: Entry) -> None:
        """Keep `entry` under `key`, if it can be written and is not larger than the limit."""
        payload = _serialise(key, entry)
        if len(payload) > self.limit_bytes:
            return
        file = self._file(key)
        fresh = file.with_name(f".{key[:16]}.{secrets.token_hex(6)}.tmp")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_bytes(payload)
            fresh.replace(file)
            self._evict()
        except OSError:
            with contextlib.suppress(OSError):
                fresh.unlink()

    def _file(self, key: str) -> Path:
        if len(key) != 64 or not set(key) <= set("0123456789abcdef"):
            raise ValueError(f"expected a sha256 in hex, got {key!r}")
        return self.root / key[:2] / key

    def _evict(self) -> None:
        found, total = [], 0
        for file in self.root.glob("??/*"):
            try:
                about = file.lstat()
            except OSError:
                continue  # another run has just removed it
            if not stat.S_ISREG(about.st_mode):
                continue
            if file.suffix == ".tmp" and about.st_mtime < time.time() - _ABANDONED_S:
                found.append((0.0, file.name, about.st_size, file))
            elif file.suffix != ".tmp":
                found.append((about.st_mtime, file.name, about.st_size, file))
            total += about.st_size
        if total <= self.limit_bytes:
            return
        for _, _, size, file in sorted(found):
            if total <= _KEPT_SHARE * self.limit_bytes:
                return
            with contextlib.suppress(OSError):
                file.unlink()
            total -= size


def default_folder() -> Path:
    """Return the user's own cache folder for edgec."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    return base / "edgec"


def open_store(folder: str) -> Store:
    """Return the cache in `folder`, which need not exist yet.

    Raises:
        UsageError: `folder` is something else, or the limit in the environment is not a number.
    """
    root = Path(folder)
    if root.exists() and not root.is_dir():
        raise UsageError(f"--cache {folder}: expected a folder")
    limit = os.environ.get(LIMIT_VARIABLE, "")
    if limit and not (limit.isdecimal() and len(limit) < 18):
        raise UsageError(f"${LIMIT_VARIABLE}: expected a number of bytes, got '{limit}'")
    return Store(root, int(limit) if limit else LIMIT_BYTES)


def _read(file: Path, most_bytes: int) -> bytes:
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as stream:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode) or about.st_size > most_bytes + _HEAD.size:
            raise OSError(f"{file} is no entry")
        return stream.read()


def _serialise(key: str, entry: Entry) -> bytes:
    sizes = [[name, len(data)] for name, data in entry.blobs.items()]
    header = json.dumps({"facts": entry.facts, "blobs": sizes}, allow_nan=False).encode()
    body = header + b"".join(entry.blobs.values())
    return _HEAD.pack(_MAGIC, _digest(key, len(header), body), len(header)) + body


def _parse(key: str, payload: bytes) -> Entry | None:
    if len(payload) < _HEAD.size:
        return None
    magic, digest, length = _HEAD.unpack_from(payload)
    body = payload[_HEAD.size :]
    if magic != _MAGIC or length > min(len(body), _MAX_HEADER_BYTES):
        return None
    if digest != _digest(key, length, body):
        return None
    try:
        header = json.loads(body[:length])
        facts, sizes = header["facts"], header["blobs"]
        blobs, start = {}, length
        for name, size in sizes:
            if type(name) is not str or type(size) is not int or size < 0:
                return None
            blobs[name] = body[start : start + size]
            start += size
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    whole = start == len(body) and isinstance(facts, dict)
    return Entry(facts, blobs) if whole else None


def _digest(key: str, length: int, body: bytes) -> bytes:
    digest = hashlib.sha256(f"{key} {length} ".encode())
    digest.update(body)
    return digest.digest()
