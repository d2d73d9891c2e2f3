"""Rows of a tensor that went elsewhere: gates in another order, matrices joined or split.

A tensor that nothing of its size predicts may still be made of an old one's rows. Each row is
compared with all old rows of its length, and runs that follow each other in both files are found.
"""

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
_LOOKS, _ALIKE = 24, 0.5  # rows that are looked at first; how far apart they are, of the usual
_LEAST_MOVED = 0.1
_LEAST_RUN = 8  # rows that stay together
_LEAST_SHARE = 0.5  # of the rows in such runs

Rows = npt.NDArray[np.float32]


def pieces(
    tensor: Tensor, sources: Sequence[Tensor], olds: Sequence[Tensor], old: Bytes, new: Bytes
) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Return parts of `tensor` in order, each with the rows that it comes from, if any.

    Args:
        tensor: of the new file.
        sources: whole tensors it may come from; if it has the rows of one, there are no parts.
        olds: the tensors of the old file.
    """
    count, size = _rows_of(tensor)
    others = [one for one in olds if one.dtype == tensor.dtype and _rows_of(one)[1] == size]
    total = sum(_rows_of(one)[0] for one in others)
    is_much = total > _MOST_ROWS or total * count > _MOST_PAIRS
    if count < _LEAST_ROWS or size < _LEAST_ROW or not total or is_much:
        return []
    before = np.concatenate([_probes(old, one) for one in others])
    owners = [(one, row) for one in others for row in range(_rows_of(one)[0])]
    after = _probes(new, tensor)
    if not _have_moved(after, before, owners, sources):
        return []
    nearest = [int(_apart(before, row).argmin()) for row in after]
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


def _have_moved(
    after: Rows, before: Rows, owners: Sequence[tuple[Tensor, int]], sources: Sequence[Tensor]
) -> bool:
    """Return whether some rows, all over the tensor, are known and not all where they were."""
    known = moved = 0
    looked = range(0, len(after), -(-len(after) // _LOOKS))
    for row in looked:
        apart = _apart(before, after[row])
        nearest = int(apart.argmin())
        if apart[nearest] < _ALIKE * float(np.median(apart)):
            owner, place = owners[nearest]
            known += 1
            moved += owner not in sources or place != row
    return known >= _LEAST_SHARE * len(looked) and moved > _LEAST_MOVED * len(looked)


def _apart(before: Rows, row: Rows) -> Rows:
    found: Rows = np.abs(before - row).mean(axis=1)
    return found


def _rows_of(tensor: Tensor) -> tuple[int, int]:
    """Return how many rows there are, along the first axis that has several, and their bytes."""
    count = next((one for one in tensor.shape if one > 1), 1)
    return count, tensor.size // count if tensor.size % count == 0 else 0


def _slice(tensor: Tensor, row: int, count: int, size: int) -> Tensor:
    rest = tensor.shape[next(at for at, one in enumerate(tensor.shape) if one > 1) + 1 :]
    offset = tensor.offset + row * size
    return replace(tensor, shape=(count, *rest), offset=offset, size=count * size)


def _probes(file: Bytes, tensor: Tensor) -> Rows:
    """Return [rows, elements]: the first elements of each row."""
    count, size = _rows_of(tensor)
    taken = min(size, _PROBE * max(8, numbers.bits_of(tensor.dtype)) // 8)
    octets = np.frombuffer(file[tensor.offset : tensor.end], np.uint8).reshape(count, size)
    codes = numbers.codes_of(octets[:, :taken].tobytes(), tensor.dtype)
    return codes.reshape(count, -1).astype(np.float32)
