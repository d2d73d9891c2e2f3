"""Pools of volumes [N, C, D, H, W] become one of each slice [H, W] and one across the slices.

Only for TFLite, which pools nothing but images: its converter would write a loop.
Left alone: dilated ones, those that round their size up, and averages that pad.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import is_call, replace, shape_of

_A = torch.ops.aten
_POOLS = {
    _A.max_pool3d.default: _A.max_pool2d.default,
    _A.avg_pool3d.default: _A.avg_pool2d.default,
}
_VOLUME = 5  # axes


def slice_pools(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many pools of volumes went."""
    found = [node for node in graph.graph.nodes if _is_pool(node)]
    for node in found:
        (kd, *window), (sd, *strides), (pd, *pads) = _sizes(node)
        (n, c, d, h, w), (*_, h2, w2) = shape_of(node.args[0]) or (), shape_of(node) or ()
        target = _POOLS[node.target]
        slices = call(graph, node, _A.reshape.default, (node.args[0], [n, c * d, h, w]))
        pooled = call(graph, node, target, (slices, window, strides, pads))
        columns = call(graph, node, _A.reshape.default, (pooled, [n, c, d, h2 * w2]))
        made = call(graph, node, target, (columns, [kd, 1], [sd, 1], [pd, 0]))
        replace(node, call(graph, node, _A.reshape.default, (made, list(node.meta["shape"]))))
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many pools of volumes could be rewritten."""
    return sum(_is_pool(node) for node in graph.graph.nodes)


def _is_pool(node: Any) -> bool:
    if not is_call(node, *_POOLS) or node.kwargs or not node.users:
        return False
    if len(shape_of(node.args[0]) or ()) != _VOLUME:
        return False
    averages = is_call(node, _A.avg_pool3d.default)
    padded = averages and any(_sizes(node)[2])
    dense = averages or len(node.args) < 5 or {*_three(node.args[4])} == {1}
    ceil = len(node.args) > (4 if averages else 5) and bool(node.args[4 if averages else 5])
    return dense and not ceil and not padded


def _sizes(node: fx.Node) -> tuple[list[int], list[int], list[int]]:
    """Return window, strides and padding along depth, height and width."""
    _, window, *rest = node.args
    strides, pads = (*rest, *(None, 0)[len(rest) :])[:2]
    return _three(window), _three(strides or window), _three(pads)


def _three(values: Any) -> list[int]:
    given = list(values) if isinstance(values, list | tuple) else [values]
    return [int(one) for one in given] * (3 if len(given) == 1 else 1)
