"""Padded maxima in forms that TFLite and integer accelerators have.

same-max       a padding that is TFLite's own SAME, written as minus infinity or as copies of the
               edge around the image, as Keras does, becomes the pool's own.
zero-padded-max  a maximum pool that pads otherwise, over values that are never negative, pads with
               zeros first: the same maxima, and integer accelerators pad with nothing else.
edge-padded-max  over other values it repeats the rows and columns at the edge, which every window
               that reaches beyond it holds anyway: integers have no minus infinity to pad with.

Left alone: dilated maxima.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call, number_of
from edgec_compiler.passes.graph import is_call, shape_of

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
# How a maximum pool is called by default.
_POOL: tuple[Any, ...] = (None, None, [], [0, 0], [1, 1], False)
_LIMITED = (_A.clamp.default, _A.hardtanh.default)
_PASSING = (_A.max_pool2d.default, _A.avg_pool2d.default, _A.adaptive_avg_pool2d.default)


@dataclass(frozen=True, slots=True)
class _Padded:
    """A maximum pool that reads beyond its input's edges, per axis of height and width."""

    x: fx.Node
    window: list[int]
    strides: list[int]
    sizes: list[int]
    before: list[int]
    after: list[int]  # as far as a window reaches

    def reads_values(self) -> bool:
        """Return whether every window holds a line of the image, and so the one at the edge."""
        return all(n < k for n, k in zip(self.before + self.after, self.window * 2, strict=True))

    def is_same(self, counts: Sequence[int]) -> bool:
        """Return whether TFLite's SAME makes `counts` windows so, and torch can say it.

        SAME pads one line more behind than before where their number is odd, torch as far as the
        last of its strides reaches.
        """
        return all(
            count == -(-size // step)
            and first == (first + last) // 2
            and (step > 1 or first == last)
            for count, size, step, first, last in zip(
                counts, self.sizes, self.strides, self.before, self.after, strict=True
            )
        )


def pad_maxima_alike(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many pools of an image padded as by SAME pad it themselves."""
    found = [(node, pool) for node in graph.graph.nodes if (pool := _same(node))]
    for node, pool in found:
        node.args = (pool.x, pool.window, pool.strides, pool.before, [1, 1], True)
    return len(found)


def count_same_maxima(graph: fx.GraphModule) -> int:
    """Return how many maximum pools read an image that was padded as by SAME."""
    return sum(_same(node) is not None for node in graph.graph.nodes)


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


def _same(node: Any) -> _Padded | None:
    """Return what a maximum pool pads if that is SAME, and not by itself alone."""
    pool = _padded(node)
    return pool if pool is not None and pool.is_same(_made(node)) else None


def _made(node: Any) -> Sequence[int]:
    return (shape_of(node) or ())[2:]


def _padded(node: Any) -> _Padded | None:
    """Return what a maximum pool pads, by itself or by what is as good as minus infinity before it.

    None if it pads nothing, or by itself as SAME does, which needs no help.
    """
    if not is_call(node, _A.max_pool2d.default) or node.kwargs:
        return None
    given: tuple[Any, ...] = (*node.args, *_POOL[len(node.args) :])
    x = given[0]
    window, strides, before, dilations = map(_ints, given[1:5])
    if any(step != 1 for step in dilations):
        return None
    strides, around = strides or window, _surrounds(x)
    if around is not None:
        left, _, top, _ = around
        x, before = x.args[0], [before[0] + top, before[1] + left]
    shape, made = shape_of(x), _made(node)
    if shape is None or len(shape) != 4 or not made:
        return None
    sizes = [*shape[2:]]
    after = [
        max((count - 1) * step + k - first - size, 0)
        for count, step, k, first, size in zip(made, strides, window, before, sizes, strict=True)
    ]
    pool = _Padded(x, window, strides, sizes, before, after)
    if around is not None:
        return pool if pool.reads_values() else None
    return pool if any(before + after) and not pool.is_same(made) else None


def _surrounds(node: Any) -> list[int] | None:
    """Return the lines left, right, above and below that `node` puts around an image.

    They are minus infinity, or copies of the lines at the edge.
    """
    if not is_call(node, _A.constant_pad_nd.default, _A.pad.default, _A.replication_pad2d.default):
        return None
    pads = _ints(node.args[1])
    copies = node.target is _A.replication_pad2d.default or "replicate" in node.args
    if len(pads) != 4 or min(pads) < 0 or not (copies or node.args[-1] == -math.inf):
        return None
    return pads


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
