"""Computes what depends on weights alone.

Folded: every operator all of whose tensor inputs are constants, one of several results, too.
Left alone: those whose result is much larger than what it is made from (an expanded constant), and
random operators.
"""

from operator import getitem
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.graph import held, hold, replace

_GROWTH = 4
_SMALL = 65_536  # elements; growing to less than this is always worth it
_RANDOM = ("rand", "bernoulli", "dropout", "multinomial", "normal_")


def fold(graph: fx.GraphModule) -> int:
    """Fold constants in place; return how many operators went."""
    folded = 0
    for node in list(graph.graph.nodes):
        value = _value(graph, node)
        if value is not None:
            replace(node, hold(graph, value, node))
            graph.graph.erase_node(node)
            folded += 1
    return folded


def count(graph: fx.GraphModule) -> int:
    """Return how many operators could be folded."""
    return sum(_value(graph, node) is not None for node in graph.graph.nodes)


def _value(graph: fx.GraphModule, node: fx.Node) -> torch.Tensor | None:
    """Return what a node computes from constants, one of several results where it picks one."""
    if not node.users:
        return None
    inner = node.args[0] if node.target is getitem else node
    found = _computed(graph, inner) if isinstance(inner, fx.Node) else None
    if inner is not node and isinstance(found, tuple | list):
        found = found[int(str(node.args[1]))]
    return found.detach() if isinstance(found, torch.Tensor) else None


def _computed(graph: fx.GraphModule, node: fx.Node) -> Any:
    if node.op != "call_function" or node.kwargs.get("out") is not None:
        return None
    if any(part in str(node.target) for part in _RANDOM):
        return None
    values = {source: held(graph, source) for source in node.all_input_nodes}
    if any(value is None for value in values.values()):
        return None
    args = fx.node.map_arg(node.args, lambda source: values[source])
    kwargs = fx.node.map_arg(node.kwargs, lambda source: values[source])
    assert callable(node.target)  # noqa: S101  a call_function node's target always is
    with torch.no_grad():
        result = node.target(*args, **kwargs)
    made_from = sum(value.numel() for value in values.values() if value is not None)
    grown = isinstance(result, torch.Tensor) and result.numel() > max(_GROWTH * made_from, _SMALL)
    return None if grown else result
