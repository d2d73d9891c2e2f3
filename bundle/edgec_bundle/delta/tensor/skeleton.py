"""What is not a tensor: names, shapes, operators, scalars, padding, compared byte by byte.

The bytes between the tensors of each file are joined and compared with bsdiff's algorithm while
they are few, and block by block beyond that.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise

import bsdiff4.core
import numpy as np

from edgec_bundle.delta.bsdiff import is_repetitive
from edgec_bundle.delta.tensor import blocks
from edgec_bundle.delta.tensor.model import Bytes, Tensor
from edgec_bundle.delta.tensor.record import Add, Copy, Literal

MAX_DIFF_BYTES = 4 << 20  # of both skeletons together
_PIECE = 256 << 10
_EQUAL_RUN = 32  # from here on, a copy of its own is cheaper than differences of zero

Plain = Copy | Add | Literal


class Gaps:
    """The bytes of a file that no tensor has."""

    def __init__(self, data: Bytes, tensors: Sequence[Tensor]) -> None:
        self._data = data
        edges = [0, *(edge for one in tensors for edge in (one.offset, one.end)), len(data)]
        self.ranges = [(edges[at], edges[at + 1]) for at in range(0, len(edges), 2)]
        self.starts = np.cumsum([0, *(end - start for start, end in self.ranges)])
        self.size = int(self.starts[-1])

    def joined(self) -> bytes:
        """Return all of them, one behind the other."""
        return b"".join(bytes(self._data[start:end]) for start, end in self.ranges)

    def place(self, at: int) -> tuple[int, int]:
        """Return where in the file byte `at` of the joined ones is, and how many follow it."""
        gap = int(np.searchsorted(self.starts, at, "right")) - 1
        while gap < len(self.ranges) - 1 and self.starts[gap + 1] <= at:
            gap += 1
        return self.ranges[gap][0] + at - int(self.starts[gap]), int(self.starts[gap + 1]) - at


def compare(
    old: Bytes,
    new: Bytes,
    old_tensors: Sequence[Tensor],
    new_tensors: Sequence[Tensor],
    small: Sequence[Tensor],
) -> list[list[Plain]]:
    """Return for each gap of `new`, the one behind the last tensor included, how to make it.

    `small` are tensors in the gaps, by offset. Others may follow from them, so what is equal to
    the old file is not told from what isn't in the middle of one.
    """
    old_gaps, new_gaps = Gaps(old, old_tensors), Gaps(new, new_tensors)
    whole = [(one.offset, one.end) for one in small]
    old_bytes, new_bytes = old_gaps.joined(), new_gaps.joined()
    found: list[list[Plain]] = [[] for _ in new_gaps.ranges]
    for at, size, source in _aligned(old_bytes, new_bytes):
        while size:
            gap = int(np.searchsorted(new_gaps.starts, at, "right")) - 1
            length = min(size, int(new_gaps.starts[gap + 1]) - at)
            if source is None:
                found[gap].append(Literal(length))
            else:
                place, left = old_gaps.place(source)
                length = min(length, left)
                change = _difference(old_bytes, source, new_bytes, at, length)
                found[gap] += _split(change, place, new_gaps.place(at)[0], whole)
                source += length
            at += length
            size -= length
    return [list(merged(ops)) for ops in found]


def merged(segments: Sequence[Plain]) -> Iterator[Plain]:
    """Return the same with neighbours joined where they continue each other."""
    last: Plain | None = None
    for one in segments:
        match last, one:
            case Literal(a), Literal(b):
                last = Literal(a + b)
            case (Copy(a, at), Copy(b, then)) | (Add(a, at), Add(b, then)) if at + a == then:
                last = type(one)(a + b, at)  # type: ignore[call-arg]
            case _:
                if last is not None:
                    yield last
                last = one
    if last is not None:
        yield last


def pieces(one: Plain, most: int = _PIECE) -> Iterator[Plain]:
    """Return the same in pieces that a record can take."""
    for at in range(0, one.size, most):
        size = min(most, one.size - at)
        match one:
            case Literal():
                yield Literal(size)
            case Copy(_, old):
                yield Copy(size, old + at)
            case Add(_, old):
                yield Add(size, old + at)


def _aligned(old: bytes, new: bytes) -> Iterator[tuple[int, int, int | None]]:
    """Return (place, size, place in old or None) that together make `new`."""
    few = len(old) + len(new) <= MAX_DIFF_BYTES
    if few and not (is_repetitive(old) and is_repetitive(new)):
        yield from _by_bsdiff(old, new)
        return
    yield from blocks.aligned(old, new)


def _by_bsdiff(old: bytes, new: bytes) -> Iterator[tuple[int, int, int | None]]:
    if not new:
        return
    at = source = 0
    for copied, added, seek in _triples(old, new):
        if copied:
            yield at, copied, source
        if added:
            yield at + copied, added, None
        at += copied + added
        source += copied + seek


def _triples(old: bytes, new: bytes) -> Iterator[tuple[int, int, int]]:
    words = np.frombuffer(bsdiff4.core.diff(old, new)[0], "<u8")
    sign = np.uint64(1 << 63)
    values = (words & ~sign).astype(np.int64)
    values = np.where(words & sign, -values, values).reshape(-1, 3)
    for copied, added, seek in values.tolist():
        yield int(copied), int(added), int(seek)


def _difference(
    old: bytes, old_at: int, new: bytes, new_at: int, size: int
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    before = np.frombuffer(old, np.uint8, size, old_at)
    return np.not_equal(before, np.frombuffer(new, np.uint8, size, new_at))


def _split(
    change: np.ndarray[tuple[int], np.dtype[np.bool_]],
    old: int,
    new: int,
    whole: Sequence[tuple[int, int]],
) -> Iterator[Plain]:
    """Return copies for long equal stretches, and additions for what lies between.

    Args:
        change: which bytes differ.
        old, new: where they start in either file.
        whole: ranges of the new file in which no copy starts or ends.
    """
    changed = np.flatnonzero(change)
    edges = [0]
    if len(changed):
        for before, after in pairwise([-1, *changed.tolist(), len(change)]):
            if after - before - 1 >= _EQUAL_RUN:
                edges += [_around(new + before + 1, whole)[1] - new]
                edges += [_around(new + after, whole)[0] - new]
    edges.append(len(change))
    for start, end in pairwise(sorted(set(edges))):
        kind = Add if change[start:end].any() else Copy
        yield kind(end - start, old + start)


def _around(place: int, ranges: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the range that `place` is in the middle of, or `place` twice."""
    index = bisect_right(ranges, (place,)) - 1
    if index >= 0 and ranges[index][0] < place < ranges[index][1]:
        return ranges[index]
    return place, place
