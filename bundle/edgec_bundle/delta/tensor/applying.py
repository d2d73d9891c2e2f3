"""Applying: record after record, in memory that doesn't grow with the file.

The body starts with a version, what of the new file later records refer to, and then holds the
records. Each says how many bytes it makes and their CRC-32, so that a reader can go on after
a kill from what is on disk, and stop early at the first wrong byte.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgec_bundle.delta.header import read_varint
from edgec_bundle.delta.tensor import coders, engine
from edgec_bundle.delta.tensor.assembly import Requests, assemble
from edgec_bundle.delta.tensor.coders import PLANES, RANS
from edgec_bundle.delta.tensor.lanes import Coded
from edgec_bundle.delta.tensor.lot import Lot
from edgec_bundle.delta.tensor.numbers import Ints
from edgec_bundle.delta.tensor.record import (
    BY_SCALES,
    MAX_PAYLOAD_BYTES,
    OLD_FILE,
    Copy,
    Delta,
    Record,
)
from edgec_bundle.errors import PatchFormatError, PatchLimitError
from edgec_bundle.store import Appender, BlobReader

VERSION = 1
MAX_KEPT_BYTES = 4 << 20
MAX_KEPT_RANGES = 1 << 14
_HEAD_BYTES = 32  # more than a record's head can have
_PIECE = 1 << 18
_BATCH_RECORDS = 6  # that numpy decodes side by side, if they make no more than this:
_BATCH_BYTES = 1 << 20


class Kept:
    """The parts of the new file that later records refer to, as they come by."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self._starts = np.array([start for start, _ in ranges], np.int64)
        self._parts = [bytearray() for _ in ranges]
        self._sizes = [size for _, size in ranges]

    def add(self, offset: int, data: bytes) -> None:
        """Remember what of `data` is wanted; it follows what was added before."""
        end = offset + len(data)
        first = max(0, int(np.searchsorted(self._starts, offset, "right")) - 1)
        for number in range(first, int(np.searchsorted(self._starts, end, "left"))):
            start, part = int(self._starts[number]), self._parts[number]
            wanted = start + len(part)
            if offset <= wanted < min(end, start + self._sizes[number]):
                part += data[wanted - offset : start + self._sizes[number] - offset]

    def has(self, offset: int, size: int) -> bool:
        """Return whether these bytes of the new file are kept and came by."""
        number = int(np.searchsorted(self._starts, offset, "right")) - 1
        if number < 0:
            return False
        return offset + size <= int(self._starts[number]) + len(self._parts[number])

    def get(self, offset: int, size: int) -> bytes:
        """Return bytes of the new file. Raises PatchFormatError if they were not kept."""
        number = int(np.searchsorted(self._starts, offset, "right")) - 1
        if number >= 0:
            at = offset - int(self._starts[number])
            if at + size <= len(self._parts[number]):
                return bytes(self._parts[number][at : at + size])
        raise PatchFormatError("expected the patch to refer to what was made already")


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before a record's payload."""

    made: int
    crc32: int
    payload_at: int
    end: int


class Applier:
    """One patch's body being applied.

    Attributes:
        position: how many bytes of the body are done with.
        made: how many bytes of the new file they made.
    """

    def __init__(
        self,
        body: BlobReader,
        old: BlobReader,
        new_bytes: int,
        allowed: frozenset[int] = frozenset((PLANES, RANS)),
    ) -> None:
        """Read the start of `body`. Raises PatchFormatError, PatchLimitError."""
        self._body = body
        self._old = old
        self._new_bytes = new_bytes
        self._allowed = allowed
        self.made = 0
        ranges, self.position = _read_start(body, new_bytes)
        self._kept = Kept(ranges)

    @property
    def is_finished(self) -> bool:
        """Whether the whole new file was made."""
        return self.made == self._new_bytes

    def run(self, out: Appender, available: int | None = None) -> None:
        """Append what all further records make, as far as they are there whole.

        Args:
            out: where the new file goes, or what is missing of it.
            available: how many bytes of the body may be read by now; all of them if None.

        Raises:
            PatchFormatError, PatchLimitError: a record is malformed, or isn't what it claims.
        """
        limit = self._body.size if available is None else available
        while not self.is_finished:
            batch = self._next_batch(limit)
            if not batch:
                break
            for head, made in zip(*self._assembled(batch), strict=True):
                self._emit(head, made, out)
        if available is None and not self.is_finished:
            raise PatchFormatError("the patch is cut short: expected more records")
        if self.is_finished and limit > self.position:
            raise PatchFormatError("expected no further bytes behind the records of the patch")

    def resume(self, made: BlobReader, available: int | None = None) -> None:
        """Pass over the records whose bytes `made` holds already, as its checksums say.

        Afterwards `self.made` bytes of `made` are good, and `run` appends what follows them.
        """
        limit = self._body.size if available is None else available
        while not self.is_finished:
            head = self._head(self.position, limit)
            if head is None or self.made + head.made > made.size:
                break
            if _crc32(made, self.made, head.made) != head.crc32:
                break
            for at in range(self.made, self.made + head.made, _PIECE):
                size = min(_PIECE, self.made + head.made - at)
                self._kept.add(at, made.pread(size, at))
            self._advance(head)

    def _advance(self, head: Head) -> None:
        self.made += head.made
        self.position = head.end

    def _head(self, at: int, limit: int) -> Head | None:
        """Return the head of the record at `at`, or None if it isn't there whole."""
        start = self._body.pread(max(0, min(_HEAD_BYTES, limit - at)), at)
        try:
            made, read = read_varint(start, 0)
            size, read = read_varint(start, read)
        except PatchFormatError:
            if len(start) < _HEAD_BYTES:
                return None
            raise
        if made < 1 or size > MAX_PAYLOAD_BYTES:
            raise PatchFormatError("expected a record of less that makes something")
        payload_at = at + read + 4
        if payload_at + size > limit:
            return None
        crc32 = int.from_bytes(start[read : read + 4], "little")
        return Head(made, crc32, payload_at, payload_at + size)

    def _next_batch(self, limit: int) -> list[tuple[Head, Record]]:
        """Return the next records; more than one only if numpy decodes, and they may mix."""
        batch: list[tuple[Head, Record]] = []
        at, made = self.position, self.made
        while made < self._new_bytes and len(batch) < (
            1 if engine.is_compiled() else _BATCH_RECORDS
        ):
            head = self._head(at, limit)
            if head is None:
                break
            if head.made > self._new_bytes - made:
                raise PatchLimitError(f"expected {self._new_bytes} bytes, but the patch makes more")
            size = head.end - head.payload_at
            contents = Record.from_bytes(self._body.pread(size, head.payload_at))
            if contents.made != head.made:
                raise PatchFormatError("expected a record to make what it says")
            is_next = made + head.made <= self.made + _BATCH_BYTES
            if batch and not (is_next and _is_apart(contents, self.made, made)):
                break
            batch.append((head, contents))
            at, made = head.end, made + head.made
        return batch

    def _assembled(
        self, batch: Sequence[tuple[Head, Record]]
    ) -> tuple[list[Head], list[list[bytes | Copy]]]:
        starts = np.cumsum([self.made] + [head.made for head, _ in batch]).tolist()
        requests = [
            assemble(contents, start, self._old, self._kept)
            for (_, contents), start in zip(batch, starts, strict=False)
        ]
        heads = [head for head, _ in batch]
        return heads, _drive(requests, [one for _, one in batch], self._allowed)

    def _emit(self, head: Head, made: Sequence[bytes | Copy], out: Appender) -> None:
        crc32, at = 0, self.made
        for piece in made:
            if isinstance(piece, Copy):
                for offset in range(piece.old, piece.old + piece.size, _PIECE):
                    data = self._old.pread(min(_PIECE, piece.old + piece.size - offset), offset)
                    crc32, at = self._append(data, crc32, at, out)
            else:
                crc32, at = self._append(piece, crc32, at, out)
        if crc32 != head.crc32 or at != self.made + head.made:
            raise PatchFormatError("expected a record to make other bytes: its checksum differs")
        self._advance(head)

    def _append(self, data: bytes, crc32: int, at: int, out: Appender) -> tuple[int, int]:
        self._kept.add(at, data)
        out.append(data)
        return zlib.crc32(data, crc32), at + len(data)


def _drive(
    requests: Sequence[Requests], records: Sequence[Record], allowed: frozenset[int]
) -> list[list[bytes | Copy]]:
    """Return what each record makes, decoding lots of one dtype side by side."""
    results: list[list[bytes | Copy]] = [[] for _ in requests]
    waiting: dict[int, tuple[int, Lot]] = {}

    def advance(which: int, step: Callable[[], tuple[int, Lot]]) -> None:
        try:
            waiting[which] = step()
        except StopIteration as stop:
            results[which] = stop.value

    for which, request in enumerate(requests):
        advance(which, request.__next__)
    while waiting:
        ready = dict(waiting)
        waiting.clear()
        for which, codes in _decoded(ready, records, allowed).items():
            advance(which, lambda which=which, codes=codes: requests[which].send(codes))  # type: ignore[misc]
    return results


def _decoded(
    ready: dict[int, tuple[int, Lot]], records: Sequence[Record], allowed: frozenset[int]
) -> dict[int, Ints]:
    found: dict[int, Ints] = {}
    groups: dict[str, list[tuple[int, Lot, Coded]]] = {}
    for which, (number, lot) in ready.items():
        data = records[which].lots[number]
        coder = coders.coder_of(data)
        if coder not in allowed:
            raise PatchFormatError("expected a coder that this format allows")
        if coder == PLANES:
            found[which] = coders.decode_planes(lot, data)
        else:
            coded = coders.parse_rans(lot, data)
            groups.setdefault(lot.dtype, []).append((which, lot, coded))
    for group in groups.values():
        codes = engine.decode_lots([lot for _, lot, _ in group], [one for _, _, one in group])
        found |= {which: own for (which, _, _), own in zip(group, codes, strict=True)}
    return found


def _read_start(body: BlobReader, new_bytes: int) -> tuple[list[tuple[int, int]], int]:
    """Return the ranges to keep, and where the records start."""
    start = body.pread(1 + 20 * MAX_KEPT_RANGES, 0) if body.size else b""
    if not start or start[0] != VERSION:
        raise PatchFormatError(f"expected version {VERSION} of the tensor format")
    count, at = read_varint(start, 1)
    if count > MAX_KEPT_RANGES:
        raise PatchFormatError(f"expected at most {MAX_KEPT_RANGES} ranges to keep, got {count}")
    ranges, end, total = [], 0, 0
    for _ in range(count):
        gap, at = read_varint(start, at)
        size, at = read_varint(start, at)
        ranges.append((end + gap, size))
        end, total = end + gap + size, total + size
    if end > new_bytes or total > MAX_KEPT_BYTES:
        raise PatchLimitError(f"expected to keep at most {MAX_KEPT_BYTES} bytes of the new file")
    return ranges, at


def _is_apart(contents: Record, start: int, end: int) -> bool:
    """Return whether a record refers to nothing of the new file from `start` to `end`."""
    for one in contents.segments:
        if isinstance(one, Delta) and (one.reference > OLD_FILE or one.scaling == BY_SCALES):
            places = [one.second] if one.scaling == BY_SCALES else [one.first, one.second]
            if any(at < end and start < at + 4 * one.count for at in places):
                return False
    return True


def _crc32(blob: BlobReader, offset: int, size: int) -> int:
    crc32 = 0
    for at in range(offset, offset + size, _PIECE):
        crc32 = zlib.crc32(blob.pread(min(_PIECE, offset + size - at), at), crc32)
    return crc32
