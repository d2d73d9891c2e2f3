"""Softmaxes over another axis than the last: TFLite's operator knows no other.

The axis is moved to the end and back. Otherwise LiteRT's converter writes out an exponential and a
sum, which integer targets lack, as for the distributions from which detectors read their boxes.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import is_call, replace, shape_of

_A = torch.ops.aten
_SOFTMAX = (_A.softmax.int, _A._softmax.default)
_LOGARITHM = (_A.log_softmax.int, _A._log_softmax.default)


def move_axes(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many softmaxes were rewritten."""
    found = [node for node in graph.graph.nodes if _is_inner(node)]
    for node in found:
        axis, rank = _axis(node)
        order = [*(i for i in range(rank) if i != axis), axis]
        back = [order.index(i) for i in range(rank)]
        moved = call(graph, node, _A.permute.default, (node.args[0], order))
        made = call(graph, node, node.target, (moved, -1, *node.args[2:]))
        made.kwargs = node.kwargs
        replace(node, call(graph, node, _A.permute.default, (made, back)))
        graph.graph.erase_node(node)
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many there are."""
    return sum(_is_inner(node) for node in graph.graph.nodes)


def _is_inner(node: Any) -> bool:
    if not is_call(node, *_SOFTMAX, *_LOGARITHM) or len(node.args) < 2 or not shape_of(node):
        return False
    axis, rank = _axis(node)
    return axis != rank - 1


def _axis(node: fx.Node) -> tuple[int, int]:
    """Return the axis of a softmax, from the front, and the rank of its input."""
    rank = len(shape_of(node) or ())
    return int(str(node.args[1])) % rank, rank
