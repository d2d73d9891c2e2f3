"""Reductions over the image in the form that stays channel-last.

mean-to-pool  the mean over the two spatial axes of [N, C, H, W] becomes an average pool, the
              largest value a maximum pool: in channel-last layout no transpose is then needed.
adaptive-max   a maximum pool that is told its output's size becomes one that is told its window,
              where equal windows make that size: converters know no other.

Left alone: other axes, and windows of several sizes.
"""

from operator import getitem
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import is_call, replace, shape_of

_A = torch.ops.aten
_MAXIMA = {
    _A.adaptive_max_pool1d.default: _A.max_pool1d.default,
    _A.adaptive_max_pool2d.default: _A.max_pool2d.default,
    _A.adaptive_max_pool3d.default: _A.max_pool3d.default,
}


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


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values] if isinstance(values, list | tuple) else []
