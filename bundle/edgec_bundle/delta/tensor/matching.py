"""Which old tensor each new one comes from: by name, by order, by contents.

A name may be a counter of the exporter and mean another layer now, and so may the order where a
layer was added; so the caller is given every guess, and judges by the contents of all.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor import numbers
from edgec_bundle.delta.tensor.model import Bytes, Tensor

_PROBES, _PROBE_BYTES = 8, 64  # of each tensor: what is compared of its contents
_LEAST_BYTES = 8  # smaller ones are hardly worth a comparison
_MOST_PAIRS = 1 << 16  # of tensors alike in type and size
_MOST_ALIKE = 1 << 12  # of them in the old file: what is compared of each takes 2 kB


def candidates(
    old: Sequence[Tensor], new: Sequence[Tensor], old_file: Bytes, new_file: Bytes
) -> list[tuple[Tensor, ...]]:
    """Return for each new tensor the old ones it may come from, the likeliest first, or none."""
    ways = (_by_name(old, new), _by_order(old, new), _by_contents(old, new, old_file, new_file))
    found: list[tuple[Tensor, ...]] = []
    for guesses in zip(*ways, strict=True):
        found.append(tuple(dict.fromkeys(one for one in guesses if one is not None)))
    return found


def _by_name(old: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor | None]:
    """The n-th of a name goes with the n-th; sizes may differ, if the rows are alike."""
    named: dict[tuple[str, str], list[Tensor]] = defaultdict(list)
    for tensor in reversed(old):
        named[tensor.name, tensor.dtype].append(tensor)
    found: list[Tensor | None] = []
    for tensor in new:
        others = named[tensor.name, tensor.dtype]
        other = others.pop() if others else None
        fits = other is not None and (
            other.size == tensor.size or other.shape[1:] == tensor.shape[1:]
        )
        found.append(other if fits else None)
    return found


def _by_order(old: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor | None]:
    kinds: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    for tensor in reversed(old):
        kinds[tensor.dtype, tensor.size].append(tensor)
    found: list[Tensor | None] = []
    for tensor in new:
        others = kinds[tensor.dtype, tensor.size]
        found.append(others.pop() if others else None)
    return found


def _by_contents(
    old: Sequence[Tensor], new: Sequence[Tensor], old_file: Bytes, new_file: Bytes
) -> list[Tensor | None]:
    """Of several old tensors alike in type and size, the one that the new one is most like."""
    kinds: dict[tuple[str, int], list[Tensor]] = defaultdict(list)
    for tensor in old:
        kinds[tensor.dtype, tensor.size].append(tensor)
    wanted: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number, tensor in enumerate(new):
        wanted[tensor.dtype, tensor.size].append(number)
    found: list[Tensor | None] = [None] * len(new)
    for kind, numbers_ in wanted.items():
        others = kinds[kind]
        most = min(_MOST_ALIKE, _MOST_PAIRS // len(numbers_))
        if kind[1] < _LEAST_BYTES or not 2 <= len(others) <= most:
            continue
        before = np.stack([_probes(old_file, one) for one in others])
        for number in numbers_:
            apart = np.abs(before - _probes(new_file, new[number])).mean(axis=1)
            found[number] = others[int(apart.argmin())]
    return found


def _probes(file: Bytes, tensor: Tensor) -> npt.NDArray[np.float32]:
    """Return a few elements from all over a tensor, as numbers that have no outliers."""
    size = min(_PROBE_BYTES, tensor.size)
    last = (tensor.size - size) // 8 * 8
    places = range(0, last + 1, max(8, last // (_PROBES - 1) // 8 * 8)) if last else (0,)
    data = b"".join(
        bytes(file[tensor.offset + place : tensor.offset + place + size]) for place in places
    )
    codes = numbers.codes_of(data[: len(data) // 8 * 8], tensor.dtype)
    return codes.astype(np.float32)
