"""Reductions over the image, and the padding of maxima, in the form that stays channel-last.

mean-to-pool  the mean over the two spatial axes of [N, C, H, W] becomes an average pool, the
              largest value a maximum pool: in channel-last layout no transpose is then needed.
adaptive-max   a maximum pool that is told its output's size becomes one that is told its window,
              where equal windows make that size: converters know no other.
zero-padded-max  a maximum pool that pads, over values that are never negative, pads with zeros
              first: the same maxima, and integer accelerators pad with nothing else.
Left alone: other axes, windows of several sizes, and maxima of values that may be negative.
"""

from operator import getitem
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call, number_of
from edgec_compiler.passes.graph import is_call, replace, shape_of

_A = torch.ops.aten
_NEVER_NEGATIVE = (
    _A.relu.default,
    _A.relu_.default,
    _A.relu6.default,
    _A.sigmoid.default,
    _A.hardsigmoid.default,
    _A.softmax.int,
    _A.abs.default,
    _A.exp.default,
)
_MAXIMA = {
    _A.adaptive_max_pool1d.default: _A.max_pool1d.default,
    _A.adaptive_max_pool2d.default: _A.max_pool2d.default,
    _A.adaptive_max_pool3d.default: _A.max_pool3d.default,
}
_LIMITED = (_A.clamp.default, _A.hardtanh.default)
_PASSING = (_A.max_pool2d.default, _A.avg_pool2d.default, _A.adaptive_avg_pool2d.default)


def reduce_by_pool(graph: fx.GraphModule) -> int:
    """Rewrite spatial means and maxima in place; return how many became pools."""
    found = [node for node in graph.graph.nodes if _is_spatial(node)]
    for node in found:
        x: Any = node.args[0]
        shape = shape_of(x)
        assert shape is not None  # noqa: S101  _is_spatial has looked
        if is_call(node, _A.mean.dim):
            pooled = call(graph, node, _A.adaptive_avg_pool2d.default, (x, [1, 1]))
        else:
            window = [*shape[2:]]
            pooled = call(graph, node, _A.max_pool2d.default, (x, window, window))
        if not (len(node.args) > 2 and node.args[2]):
            pooled = call(graph, node, _A.reshape.default, (pooled, list(shape[:2])))
        replace(node, pooled)
        graph.graph.erase_node(node)
    return len(found)


def count_reductions(graph: fx.GraphModule) -> int:
    """Return how many spatial means and maxima there are."""
    return sum(_is_spatial(node) for node in graph.graph.nodes)


def _is_spatial(node: Any) -> bool:
    if not is_call(node, _A.mean.dim, _A.amax.default) or node.kwargs or len(node.args) < 2:
        return False
    shape, axes = shape_of(node.args[0]), _ints(node.args[1])
    if not getattr(node.meta.get("dtype"), "is_floating_point", False):
        return False  # no runtime pools integers
    return shape is not None and len(shape) == 4 and sorted(a % 4 for a in axes) == [2, 3]


def window_maxima(graph: fx.GraphModule) -> int:
    """Rewrite maximum pools with a wanted size in place; return how many got a window."""
    found = [node for node in graph.graph.nodes if _window_of(node) is not None]
    for node in found:
        pool: Any = node.args[0]
        target, window = _MAXIMA[pool.target], _window_of(node)
        replace(node, call(graph, node, target, (pool.args[0], window, window)))
        graph.graph.erase_node(node)
    return len(found)


def count_adaptive_maxima(graph: fx.GraphModule) -> int:
    """Return how many maximum pools are told a size that equal windows make."""
    return sum(_window_of(node) is not None for node in graph.graph.nodes)


def _window_of(node: Any) -> list[int] | None:
    """Return the window of the maxima that `node` takes from an adaptive pool, if all are alike."""
    if node.target is not getitem or node.args[1] != 0 or not is_call(node.args[0], *_MAXIMA):
        return None
    x, sizes = node.args[0].args
    wanted = _ints(sizes)
    given = (shape_of(x) or ())[-len(wanted) :]
    if len(given) != len(wanted) or any(a % b for a, b in zip(given, wanted, strict=True)):
        return None
    return [a // b for a, b in zip(given, wanted, strict=True)]


def pad_maxima_with_zeros(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many pools got a padding of their own."""
    found = [node for node in graph.graph.nodes if _pads_over_zeros(graph, node)]
    for node in found:
        x, window, strides, (top, left), *rest = node.args
        padded = call(graph, node, _A.constant_pad_nd.default, (x, [left, left, top, top], 0.0))
        node.args = (padded, window, strides, [0, 0], *rest)
    return len(found)


def count_padded_maxima(graph: fx.GraphModule) -> int:
    """Return how many maximum pools pad values that are never negative."""
    return sum(_pads_over_zeros(graph, node) for node in graph.graph.nodes)


def _pads_over_zeros(graph: fx.GraphModule, node: Any) -> bool:
    if not is_call(node, _A.max_pool2d.default) or len(node.args) < 4 or node.kwargs:
        return False
    paddings = _ints(node.args[3])
    ceil = len(node.args) > 5 and bool(node.args[5])
    dense = [*_ints(node.args[4]), 1][0] == 1 if len(node.args) > 4 else True
    same = _is_same(node)
    return (
        any(paddings)
        and len(paddings) == 2
        and not ceil
        and dense
        and not same
        and (_is_never_negative(graph, node.args[0]))
    )


def _is_same(node: Any) -> bool:
    """Return whether the padding is TFLite's own SAME, which needs no help."""
    window, strides, paddings = (_ints(node.args[i]) for i in (1, 2, 3))
    return set(strides or window) == {1} and [k // 2 for k in window] == paddings


def _is_never_negative(graph: fx.GraphModule, node: Any) -> bool:
    if not isinstance(node, fx.Node):
        return False
    if is_call(node, *_NEVER_NEGATIVE):
        return True
    if is_call(node, *_LIMITED):
        low = number_of(graph, node.args[1]) if len(node.args) > 1 else None
        return low is not None and low >= 0
    if is_call(node, _A.cat.default):
        parts: Any = node.args[0]
        return all(_is_never_negative(graph, part) for part in parts)
    return is_call(node, *_PASSING) and _is_never_negative(graph, node.args[0])


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values] if isinstance(values, list | tuple) else []
