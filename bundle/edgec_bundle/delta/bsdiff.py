"""The ``bsdiff4`` format: Colin Percival's bsdiff, without its own header, applied as a stream.

Good where bytes move or few change. Beyond about half of the bytes changed it finds nothing
aligned any more and sends nearly everything as new; the encoder then simply does that.

Source: C. Percival, "Naive differences of executable code" (2003); package bsdiff4.
"""

import bz2
from collections.abc import Iterator

import bsdiff4.core
import numpy as np
import numpy.typing as npt

from edgec_bundle.delta._streams import Bz2Stream, Window
from edgec_bundle.delta.format import Format
from edgec_bundle.delta.header import read_varint, write_varint
from edgec_bundle.errors import PatchFormatError, PatchLimitError
from edgec_bundle.store import Appender, BlobReader

MAX_RUN_BYTES = 256 << 10  # of a repeated pattern in both files: bsdiff is quadratic in it
_PATTERN_BYTES = 16 << 10  # longer ones cost no more than other bytes do
_PIECE = 64 << 10
_TRIPLE_BYTES = 24
_TRIPLES = 512
_SIGN = np.uint64(1 << 63)


def encode(old: bytes, new: bytes, max_bytes: int) -> bytes:
    """Return the body of a patch from `old` to `new`, never much larger than `encode_whole`.

    Takes about 17 times the memory of `old`, hence the limit.

    Raises:
        PatchLimitError: both together are above `max_bytes`, or both hold such a long run of a
            repeated pattern that bsdiff would take minutes.
    """
    if len(old) + len(new) > max_bytes:
        raise PatchLimitError(
            f"expected at most {max_bytes} bytes of old and new file together for bsdiff4, "
            f"got {len(old) + len(new)}"
        )
    if is_repetitive(old) and is_repetitive(new):
        raise PatchLimitError(
            f"expected no pattern that repeats for {MAX_RUN_BYTES} bytes in both files"
        )
    control, diff, extra = bsdiff4.core.diff(old, new)
    aligned = _body(_without_empty_steps(control), diff, extra)
    return min(aligned, encode_whole(new), key=len)


def encode_whole(new: bytes) -> bytes:
    """Return a body that makes `new` from any file: `new` itself, compressed."""
    if not new:
        return _body(b"", b"", b"")
    step = np.array([0, len(new), 0], "<i8").tobytes()
    return _body(step, b"", new)


def apply(body: BlobReader, old: BlobReader, out: Appender, new_bytes: int) -> None:
    """Append to `out` the `new_bytes` that `body` makes from `old`.

    Takes about 12 MiB (three bz2 decompressors), whatever `body` holds.

    Raises:
        PatchFormatError: `body` is malformed, or reads outside of `old`.
        PatchLimitError: it makes more than `new_bytes`.
    """
    start = body.pread(20, 0)
    control_bytes, at = read_varint(start, 0)
    diff_bytes, at = read_varint(start, at)
    control = Bz2Stream(Window(body, at, control_bytes), "control")
    diff = Bz2Stream(Window(body, at + control_bytes, diff_bytes), "diff")
    rest_at = at + control_bytes + diff_bytes
    extra = Bz2Stream(Window(body, rest_at, body.size - rest_at), "extra")
    position = produced = 0
    for is_first, (copied, added, seek) in _steps(control):
        if copied < 0 or added < 0 or (copied + added == 0 and not is_first):
            raise PatchFormatError("expected each step of the patch to make something")
        if copied + added > new_bytes - produced:
            raise PatchLimitError(f"expected {new_bytes} bytes, but the patch makes more")
        if copied and not 0 <= position <= old.size - copied:
            raise PatchFormatError("expected the patch to read inside of the old file")
        _copy(diff, old, position, copied, out)
        _add(extra, added, out)
        position += copied + seek
        produced += copied + added
    for stream in (control, diff, extra):
        stream.finish()


def _steps(control: Bz2Stream) -> Iterator[tuple[bool, tuple[int, int, int]]]:
    is_first = True
    while block := control.read_up_to(_TRIPLES * _TRIPLE_BYTES):
        if short := len(block) % _TRIPLE_BYTES:
            block += control.read(_TRIPLE_BYTES - short)
        words = np.frombuffer(block, "<u8")
        values = (words & ~_SIGN).astype(np.int64)  # sign and magnitude, not two's complement
        values = np.where(words & _SIGN, -values, values).reshape(-1, 3)
        for copied, added, seek in values.tolist():
            yield is_first, (copied, added, seek)
            is_first = False


def _copy(diff: Bz2Stream, old: BlobReader, position: int, length: int, out: Appender) -> None:
    while length:
        size = min(length, _PIECE)
        base = old.pread(size, position)
        if len(base) != size:
            raise PatchFormatError("expected the old file to keep its size")
        change = diff.read(size)
        out.append(np.add(_octets(base), _octets(change), dtype=np.uint8).tobytes())
        position += size
        length -= size


def _add(extra: Bz2Stream, length: int, out: Appender) -> None:
    while length:
        size = min(length, _PIECE)
        out.append(extra.read(size))
        length -= size


def _body(control: bytes, diff: bytes, extra: bytes) -> bytes:
    streams = [bz2.compress(stream) if stream else b"" for stream in (control, diff, extra)]
    return write_varint(len(streams[0])) + write_varint(len(streams[1])) + b"".join(streams)


def _without_empty_steps(control: bytes) -> bytes:
    """Return `control` with each step that makes nothing folded into the one before it.

    So a reader may refuse such steps, and a patch can't keep it busy without making progress.
    """
    words = np.frombuffer(control, "<u8").reshape(-1, 3)
    if np.all((words[1:, 0] | words[1:, 1]) != 0):
        return control
    kept: list[list[int]] = []
    for copied, added, raw_seek in words.tolist():
        seek = -(raw_seek & ~(1 << 63)) if raw_seek >> 63 else raw_seek
        if kept and copied == added == 0:
            kept[-1][2] += seek
        else:
            kept.append([copied, added, seek])
    return b"".join(
        value.to_bytes(8, "little")
        for copied, added, seek in kept
        for value in (copied, added, seek if seek >= 0 else -seek | 1 << 63)
    )


def is_repetitive(data: bytes) -> bool:
    """Return whether there is a pattern of at most 16 KiB that repeats for some `MAX_RUN_BYTES`."""
    octets, span = _octets(data), MAX_RUN_BYTES - _PATTERN_BYTES
    for at in range(0, len(data) - span + 1, _PATTERN_BYTES):
        # A probe no shorter than the pattern comes again after a whole number of patterns.
        probe = data[at : at + _PATTERN_BYTES]
        again = data.find(probe, at + 1, at + 2 * _PATTERN_BYTES)
        if again > 0 and np.array_equal(
            octets[at : at + span - (again - at)], octets[again : at + span]
        ):
            return True
    return False


def _octets(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


BSDIFF4 = Format("bsdiff4", encode, apply)
