"""Which old tensor each new one comes from: by name, else by dtype and size in order.

A name may be a counter of the exporter and mean another layer now, so where the two ways differ,
the caller is given both and judges by the contents.
"""

from collections import defaultdict
from collections.abc import Sequence

from edgec_bundle.delta.tensor.model import Tensor


def candidates(old: Sequence[Tensor], new: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    """Return for each new tensor the old ones it may come from, the likeliest first, or none."""
    by_name = _by_name(old, new)
    by_order = _by_order(old, new)
    found: list[tuple[Tensor, ...]] = []
    for named, ordered in zip(by_name, by_order, strict=True):
        both = [one for one in (named, ordered) if one is not None]
        found.append(tuple(dict.fromkeys(both)))
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
