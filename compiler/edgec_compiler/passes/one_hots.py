"""A one-hot coding becomes a comparison with the numbers of the classes, which TFLite has.

Only for TFLite. Left alone: codings whose number of classes follows from the values.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import hold, is_call, replace

_A = torch.ops.aten


def compare(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many codings became comparisons."""
    found = [node for node in graph.graph.nodes if _is_coding(node)]
    for node in found:
        x, classes = node.args
        numbers = hold(graph, torch.arange(int(str(classes))), node)
        column = call(graph, node, _A.unsqueeze.default, (x, -1))
        same = call(graph, node, _A.eq.Tensor, (column, numbers))
        replace(node, call(graph, node, _A.to.dtype, (same, torch.int64)))
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many codings there are."""
    return sum(_is_coding(node) for node in graph.graph.nodes)


def _is_coding(node: Any) -> bool:
    known = is_call(node, _A.one_hot.default) and len(node.args) == 2 and bool(node.users)
    return known and isinstance(node.args[1], int) and node.args[1] > 0
