"""Reductions over the image, and the padding of maxima, in the form that stays channel-last.

mean-to-pool  the mean over the two spatial axes of [N, C, H, W] becomes an average pool, the
              largest value a maximum pool: in channel-last layout no transpose is then needed.
adaptive-max   a maximum pool that is told its output's size becomes one that is told its window,
              where equal windows make that size: converters know no other.
zero-padded-max  a maximum pool that pads, over values that are never negative, pads with zeros
              first: the same maxima, and integer accelerators pad with nothing else.
edge-padded-max  over other values it repeats the rows and columns at the edge, which every window
              that reaches beyond it holds anyway: integers have no minus infinity to pad with.
Left alone: other axes, windows of several sizes, and dilated maxima.
"""

import math
from dataclasses import dataclass
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
_POOL: tuple[Any, ...] = (
    None,
    None,
    [],
    [0, 0],
    [1, 1],
    False,
)  # how a maximum pool is called by default
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


@dataclass(frozen=True, slots=True)
class _Padded:
    """A maximum pool that reads beyond its input's edges, per axis of height and width."""

    x: fx.Node
    window: list[int]
    strides: list[int]
    sizes: list[int]
    before: list[int]
    after: list[int]  # as far as a window reaches


def pad_maxima_with_zeros(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many pools got a padding of their own."""
    found = [node for node in graph.graph.nodes if _pads_over_zeros(graph, node)]
    for node in found:
        pool = _padded(node)
        assert pool is not None  # noqa: S101  _pads_over_zeros has looked
        (top, left), (bottom, right) = pool.before, pool.after
        pads = [left, right, top, bottom]
        _take(node, pool, call(graph, node, _A.constant_pad_nd.default, (pool.x, pads, 0.0)))
    return len(found)


def count_padded_maxima(graph: fx.GraphModule) -> int:
    """Return how many maximum pools pad values that are never negative."""
    return sum(_pads_over_zeros(graph, node) for node in graph.graph.nodes)


def pad_maxima_with_edges(graph: fx.GraphModule) -> int:
    """Rewrite every other padded maximum pool in place; return how many there were."""
    found = [(node, pool) for node in graph.graph.nodes if (pool := _padded(node))]
    for node, pool in found:
        x = pool.x
        for i, size in enumerate(pool.sizes):
            parts = [
                *_repeated(graph, node, x, (i, 0), pool.before[i], pool.window[i]),
                x,
                *_repeated(graph, node, x, (i, size), pool.after[i], pool.window[i]),
            ]
            x = x if len(parts) == 1 else call(graph, node, _A.cat.default, (parts, i + 2))
        _take(node, pool, x)
    return len(found)


def count_other_padded_maxima(graph: fx.GraphModule) -> int:
    """Return how many maximum pools pad."""
    return sum(_padded(node) is not None for node in graph.graph.nodes)


def _take(node: fx.Node, pool: _Padded, padded: fx.Node) -> None:
    node.args = (padded, pool.window, pool.strides)


def _repeated(
    graph: fx.GraphModule, node: fx.Node, x: fx.Node, edge: tuple[int, int], count: int, window: int
) -> list[fx.Node]:
    """Return `count` lines at an edge of x: the nearest ones, or copies of the very last.

    A window that reaches beyond holds the nearest ones where they fill no more than half of it.
    """
    if not count:
        return []
    axis, end = edge
    taken = count if 2 * count <= window else 1
    first = max(end - taken, 0)
    lines = call(graph, node, _A.slice.Tensor, (x, axis + 2, first, first + taken))
    return [lines] * (count // taken)


def _pads_over_zeros(graph: fx.GraphModule, node: Any) -> bool:
    pool = _padded(node)
    if pool is None or not any((*pool.before, *pool.after)):
        return False
    return _is_never_negative(graph, pool.x)


def _padded(node: Any) -> _Padded | None:
    """Return what a maximum pool pads, by itself or by minus infinity before it."""
    if not is_call(node, _A.max_pool2d.default) or node.kwargs:
        return None
    given: tuple[Any, ...] = (*node.args, *_POOL[len(node.args) :])
    x = given[0]
    window, strides, before, dilations = map(_ints, given[1:5])
    if any(step != 1 for step in dilations):
        return None
    strides, endless = strides or window, _pads_endlessly(x)
    if endless:
        left, _, top, _ = _ints(x.args[1])
        x, before = x.args[0], [before[0] + top, before[1] + left]
    shape, made = shape_of(x), shape_of(node)
    if shape is None or made is None or len(shape) != 4:
        return None
    sizes = [*shape[2:]]
    after = [
        max((count - 1) * step + k - first - size, 0)
        for count, step, k, first, size in zip(
            made[2:], strides, window, before, sizes, strict=True
        )
    ]
    if not endless:
        least = all(
            count == -(-n // s) for count, n, s in zip(made[2:], sizes, strides, strict=True)
        )
        if before == after and (least or not any(before)):
            return None  # nothing to pad, or TFLite's own SAME, which needs no help
    return _Padded(x, window, strides, sizes, before, after)


def _pads_endlessly(node: Any) -> bool:
    """Return whether `node` surrounds an image with minus infinity."""
    if not is_call(node, _A.constant_pad_nd.default, _A.pad.default):
        return False
    pads = _ints(node.args[1])
    return node.args[-1] == -math.inf and len(pads) == 4 and min(pads) >= 0


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
