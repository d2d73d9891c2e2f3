"""Rows of a tensor that went elsewhere: gates in another order, matrices joined or split.

A tensor that nothing of its size predicts may still be made of an old one's rows. Each row is
compared with all old rows of its length, and runs that follow each other in both files are found.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor import numbers
from edgec_bundle.delta.tensor.model import Bytes, Tensor

_LEAST_ROW, _LEAST_ROWS = 64, 16  # bytes of a row; rows of a tensor
_PROBE = 32  # elements that are compared of each row
_MOST_ROWS = 1 << 16  # of old tensors together: what is compared of them takes some 16 MiB
_MOST_PAIRS = 1 << 22
_LOOKS, _ALIKE = 24, 0.25  # rows that are looked at together; how far apart, of the usual
_SAMPLE = 512  # old rows that tell how far apart rows usually are
_LEAST_MOVED = 0.1
_LEAST_RUN = 8  # rows that stay together
_LEAST_SHARE = 0.5  # of the rows in such runs

Probes = npt.NDArray[np.float64]
Owners = list[tuple[Tensor, int]]


class Rows:
    """The rows of the old file's tensors, to be found again."""

    def __init__(self, olds: Sequence[Tensor], old: Bytes) -> None:
        self._old = old
        self._alike: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
        for one in olds:
            self._alike[one.dtype, _rows_of(one)[1]].append(one)
        self._held: tuple[tuple[str, int], Probes, Owners] | None = None  # of the last kind

    def pieces(
        self, tensor: Tensor, sources: Sequence[Tensor], new: Bytes
    ) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Return parts of `tensor` in order, each with the rows that it comes from, if any.

        Args:
            tensor: of the new file.
            sources: whole old tensors it may come from; if it has the rows of one, there are no
                parts.
            new: the new file.
        """
        count, size = _rows_of(tensor)
        kind = tensor.dtype, size
        total = sum(_rows_of(one)[0] for one in self._alike.get(kind, ()))
        is_much = total > _MOST_ROWS or total * count > _MOST_PAIRS
        if count < _LEAST_ROWS or size < _LEAST_ROW or not total or is_much:
            return []
        after = _probes(new, tensor)
        if any(self._is_at_home(after, source) for source in sources if source.size == tensor.size):
            return []
        before, owners = self._of(kind)
        if not _have_moved(after, before, owners, sources):
            return []
        nearest = [
            int(place)
            for first in range(0, count, _LOOKS)
            for place in _apart(before, after[first : first + _LOOKS]).argmin(axis=1)
        ]
        runs = list(_runs(nearest, owners))
        found = sum(end - first for first, end, is_run in runs if is_run)
        if found < _LEAST_SHARE * count:
            return []
        parts: list[tuple[Tensor, tuple[Tensor, ...]]] = []
        for first, end, is_run in runs:
            source, row = owners[nearest[first]]
            came = (_slice(source, row, end - first, size),) if is_run else ()
            parts.append((_slice(tensor, first, end - first, size), came))
        return parts

    def _is_at_home(self, after: Probes, source: Tensor) -> bool:
        """Return whether nearly all rows are like the one in their place in `source`."""
        if _rows_of(source)[0] != len(after):
            return False
        before = _probes(self._old, source)
        looked = _looked(len(after))
        own = np.square(before[looked] - after[looked]).mean(axis=1)
        others = np.square(before[looked[::-1]] - after[looked]).mean(axis=1)
        return float((own < _ALIKE * np.median(others)).mean()) > 1 - _LEAST_MOVED

    def _of(self, kind: tuple[str, int]) -> tuple[Probes, Owners]:
        if self._held is None or self._held[0] != kind:
            tensors = self._alike[kind]
            before = np.concatenate([_probes(self._old, one) for one in tensors])
            owners = [(one, row) for one in tensors for row in range(_rows_of(one)[0])]
            self._held = kind, before, owners
        return self._held[1:]


def _runs(
    nearest: Sequence[int], owners: Sequence[tuple[Tensor, int]]
) -> Iterator[tuple[int, int, bool]]:
    """Return (first, end, whether they were together before) of rows, all of them in order."""
    breaks = [0]
    for row in range(1, len(nearest)):
        last, this = owners[nearest[row - 1]], owners[nearest[row]]
        if this[0] is not last[0] or this[1] != last[1] + 1:
            breaks.append(row)
    start = 0
    for first, end in pairwise([*breaks, len(nearest)]):
        if end - first >= _LEAST_RUN:
            if start < first:
                yield start, first, False
            yield first, end, True
            start = end
    if start < len(nearest):
        yield start, len(nearest), False


def _have_moved(after: Probes, before: Probes, owners: Owners, sources: Sequence[Tensor]) -> bool:
    """Return whether some rows, all over the tensor, are known and not all where they were."""
    looked = _looked(len(after))
    if not _nearest_known(after[looked[::4]], before)[1].any():
        return False
    nearest, known = _nearest_known(after[looked], before)
    moved = [
        owner not in sources or place != row
        for row, (owner, place) in zip(looked, (owners[one] for one in nearest), strict=True)
    ]
    return bool(
        known.sum() >= _LEAST_SHARE * len(looked)
        and (known & moved).sum() > _LEAST_MOVED * len(looked)
    )


def _nearest_known(
    after: Probes, before: Probes
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Return the place of each row's nearest, and whether that is much nearer than usual."""
    apart = _apart(before, after)
    usual = np.median(apart[:, :: -(-len(before) // _SAMPLE)], axis=1)
    return apart.argmin(axis=1), apart.min(axis=1) < _ALIKE * usual


def _looked(count: int) -> list[int]:
    return list(range(0, count, -(-count // _LOOKS)))


def _apart(before: Probes, after: Probes) -> Probes:
    """Return [rows of after, rows of before]: the mean squares of their differences."""
    norms = np.square(before).sum(axis=1) + np.square(after).sum(axis=1)[:, None]
    found: Probes = (norms - 2 * (after @ before.T)) / before.shape[1]
    return found


def _rows_of(tensor: Tensor) -> tuple[int, int]:
    """Return how many rows there are, along the first axis that has several, and their bytes."""
    count = next((one for one in tensor.shape if one > 1), 1)
    return count, tensor.size // count if tensor.size % count == 0 else 0


def _slice(tensor: Tensor, row: int, count: int, size: int) -> Tensor:
    rest = tensor.shape[next(at for at, one in enumerate(tensor.shape) if one > 1) + 1 :]
    offset = tensor.offset + row * size
    return replace(tensor, shape=(count, *rest), offset=offset, size=count * size)


def _probes(file: Bytes, tensor: Tensor) -> Probes:
    """Return [rows, elements]: the first elements of each row."""
    count, size = _rows_of(tensor)
    taken = min(size, _PROBE * max(8, numbers.bits_of(tensor.dtype)) // 8)
    octets = np.frombuffer(file[tensor.offset : tensor.end], np.uint8).reshape(count, size)
    codes = numbers.codes_of(octets[:, :taken].tobytes(), tensor.dtype)
    return codes.reshape(count, -1).astype(np.float64)
