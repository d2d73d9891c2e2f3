"""Operators that work along axes, and what they are in front of a transpose that they lie behind.

paddings by a constant, slices, reversals   the same, along the axes that there are before it.
means, sums, maxima, minima                 the same; of the transpose stays what axes are left.
reshapes that add or drop axes of 1         one that puts those first.

Left alone: all but the reductions behind a transpose to NCHW, as models with channel-last inputs
begin, and before which they are not to go.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from edgec_compiler.passes.graph import is_call, shape_of

_A = torch.ops.aten
TO_FIRST = ([0, 3, 1, 2], [0, 4, 1, 2, 3])
PADS = (_A.constant_pad_nd.default, _A.pad.default)
_REDUCTIONS = (_A.mean.dim, _A.sum.dim_IntList, _A.amax.default, _A.amin.default)


class Along(NamedTuple):
    """An operator in front of the transpose: its arguments but x, and the order of its result."""

    args: tuple[Any, ...]
    order: list[int]


def in_front(node: Any, order: list[int]) -> Along | None:
    """Return `node`, which reads a value whose axes a transpose put in `order`, in front of it."""
    if is_call(node, *_REDUCTIONS):
        return _reduction(node, order)
    if order in TO_FIRST:
        return None
    if is_call(node, _A.reshape.default):
        return _reshape(node, order)
    if is_call(node, *PADS) and _is_constant(node):
        return Along((_pads(node, order), *node.args[2:]), order)
    if is_call(node, _A.slice.Tensor):
        axis = int(node.args[1]) if len(node.args) > 1 else 0
        return Along((order[axis % len(order)], *node.args[2:]), order)
    if is_call(node, _A.flip.default):
        return Along(([order[int(axis) % len(order)] for axis in node.args[1]],), order)
    return None


def turned_pads(node: Any, order: list[int]) -> list[int] | None:
    """Return the pads behind a transpose into `order` of a padding that lies before it."""
    if not is_call(node, *PADS) or not _is_constant(node) or len(node.users) != 1:
        return None
    return _pads(node, [order.index(axis) for axis in range(len(order))])


def _is_constant(node: Any) -> bool:
    mode = node.kwargs.get("mode", "constant")
    if is_call(node, _A.pad.default) and len(node.args) > 2:
        mode = node.args[2]
    return mode == "constant" and isinstance(node.args[1], list | tuple)


def _pads(node: Any, order: Sequence[int]) -> list[int]:
    """Return the pads, in pairs from the last axis on, where axis a goes to `order[a]`."""
    rank, values = len(order), [*node.args[1]]
    values += [0] * (2 * rank - len(values))
    pairs = [[0, 0] for _ in order]
    for axis, to in enumerate(order):
        at = 2 * (rank - 1 - axis)
        pairs[rank - 1 - to] = values[at : at + 2]
    while len(pairs) > 1 and not any(pairs[-1]):
        pairs.pop()
    return [size for pair in pairs for size in pair]


def _reduction(node: Any, order: list[int]) -> Along | None:
    axes = node.args[1] if len(node.args) > 1 else None
    if not isinstance(axes, list | tuple) or not axes or shape_of(node) is None:
        return None
    taken = sorted(order[int(axis) % len(order)] for axis in axes)
    if len(node.args) > 2 and node.args[2]:
        return Along((taken, *node.args[2:]), order)
    left = [axis for axis in order if axis not in taken]
    return Along((taken, *node.args[2:]), [sorted(left).index(axis) for axis in left])


def _reshape(node: Any, order: list[int]) -> Along | None:
    given, made = shape_of(node.args[0]), shape_of(node)
    if given is None or made is None:
        return None
    long = [axis for axis, size in enumerate(given) if size != 1]
    kept = [axis for axis, size in enumerate(made) if size != 1]
    if [given[axis] for axis in long] != [made[axis] for axis in kept]:
        return None
    ones = len(made) - len(kept)
    before = sorted(long, key=lambda axis: order[axis])  # as they lie before the transpose
    places = dict(zip(kept, (ones + before.index(axis) for axis in long), strict=True))
    first = iter(range(ones))
    behind = [places[axis] if axis in places else next(first) for axis in range(len(made))]
    return Along(([*[1] * ones, *(given[axis] for axis in before)],), behind)
