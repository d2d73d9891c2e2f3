"""Folds padding with zeros into the convolution or average behind it.

Folded: zeros put evenly around the image, where only the layer reads the padded value. An average
pool takes them if it counts padding in.
Left alone: uneven padding, other values, padded channels.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import number_of
from edgec_compiler.passes.graph import is_call, shape_of
from edgec_compiler.passes.scaling import CONVOLUTIONS

_A = torch.ops.aten
_PADS = (_A.constant_pad_nd.default, _A.pad.default)
_CONVOLUTION: tuple[Any, ...] = (
    None,
    None,
    None,
    [1],
    [0],
    [1],
    1,
)  # what arguments are that are left out
_AVERAGE: tuple[Any, ...] = (None, None, [], [0, 0], False, True, None)


def fold(graph: fx.GraphModule) -> int:
    """Fold in place; return how many paddings went."""
    found = [node for node in graph.graph.nodes if _evenly(graph, node) is not None]
    for node in found:
        pads, reader = _evenly(graph, node), _reader(node)
        assert pads is not None  # noqa: S101  the list above holds no others
        args = _arguments(reader)
        place = 4 if is_call(reader, *CONVOLUTIONS) else 3
        before = args[place] * len(pads) if len(args[place]) == 1 else args[place]
        args[place] = [old + new for old, new in zip(before, pads, strict=True)]
        reader.args = (node.args[0], *args[1:])
        graph.graph.erase_node(node)
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many paddings could be folded."""
    return sum(_evenly(graph, node) is not None for node in graph.graph.nodes)


def _reader(node: Any) -> Any:
    return next(iter(node.users))


def _arguments(reader: Any) -> list[Any]:
    known = _CONVOLUTION if is_call(reader, *CONVOLUTIONS) else _AVERAGE
    return [*reader.args, *known[len(reader.args) :]]


def _evenly(graph: fx.GraphModule, node: Any) -> list[int] | None:
    """Return the zeros on each side, outermost axis first, if the only reader can add them."""
    if (
        not is_call(node, *_PADS)
        or node.kwargs
        or len(node.users) != 1
        or not _is_zero(graph, node)
    ):
        return None
    reader, pads, shape = _reader(node), node.args[1], shape_of(node)
    if not isinstance(pads, list | tuple) or shape is None or reader.args[0] is not node:
        return None
    spatial = len(shape) - 2
    weight = shape_of(reader.args[1]) if is_call(reader, *CONVOLUTIONS) else shape
    if weight is None or len(weight) != len(shape):
        return None  # one image without a batch, or a weight that is computed
    values = [int(str(value)) for value in pads]
    both = [*zip(values[::2], values[1::2], strict=True)]
    if any(a != b or a < 0 for a, b in both) or any(a for a, _ in both[spatial:]):
        return None
    even = [a for a, _ in both[:spatial]][::-1]
    even = [0] * (spatial - len(even)) + even
    return even if any(even) and _takes(reader, even, spatial) else None


def _is_zero(graph: fx.GraphModule, node: Any) -> bool:
    if is_call(node, _A.constant_pad_nd.default):
        return len(node.args) < 3 or number_of(graph, node.args[2]) == 0
    given: tuple[Any, ...] = tuple(node.args[2:])
    mode, value = given + ("constant", None)[len(given) :]
    return mode == "constant" and (value is None or number_of(graph, value) == 0)


def _takes(reader: Any, pads: list[int], spatial: int) -> bool:
    args = _arguments(reader)
    if is_call(reader, *CONVOLUTIONS) and not reader.kwargs:
        return isinstance(args[4], list | tuple)
    if not is_call(reader, _A.avg_pool2d.default) or reader.kwargs or spatial != 2:
        return False
    window, _, old, ceil, counted, divisor = args[1:7]
    fits = all(2 * (a + b) <= k for a, b, k in zip(old, pads, window, strict=True))
    return fits and not ceil and bool(counted) and divisor is None
