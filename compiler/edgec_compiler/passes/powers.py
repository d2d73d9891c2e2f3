"""Powers of values with more than four axes, for which LiteRT's converter has no form.

A square becomes a multiplication by itself; other powers by a number are taken of the same values
in one row. Left alone: powers of up to four axes, and those whose exponents are values.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import is_call, replace, shape_of

_A = torch.ops.aten
_POWERS = (_A.square.default, _A.pow.Tensor_Scalar)
_MOST_AXES = 4


def lower(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many powers were rewritten."""
    found = [node for node in graph.graph.nodes if _is_deep(node)]
    for node in found:
        x: Any = node.args[0]
        if is_call(node, _A.square.default) or node.args[1] == 2:
            replace(node, call(graph, node, _A.mul.Tensor, (x, x)))
        else:
            row = call(graph, node, _A.reshape.default, (x, [1, -1]))
            power = call(graph, node, node.target, (row, *node.args[1:]))
            shape = list(shape_of(node) or ())
            replace(node, call(graph, node, _A.reshape.default, (power, shape)))
        graph.graph.erase_node(node)
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many there are."""
    return sum(_is_deep(node) for node in graph.graph.nodes)


def _is_deep(node: Any) -> bool:
    return is_call(node, *_POWERS) and len(shape_of(node) or ()) > _MOST_AXES
