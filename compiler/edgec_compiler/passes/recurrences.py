"""Recurrent layers that start from zeros, said as what they are: without a first state.

A constant of zeros would be a part of the file, and the first step a product with it.
"""

from collections.abc import Iterator

from torch import fx

from edgec_compiler.composites import recurrent
from edgec_compiler.passes.graph import held

_STATES = {recurrent.RNN: (4,), recurrent.GRU: (4,), recurrent.LSTM: (4, 5)}  # arguments


def drop_zero_states(graph: fx.GraphModule) -> int:
    """Leave out first states of zeros in place; return how many."""
    found = list(_zero_states(graph))
    for node, place in found:
        node.args = (*node.args[:place], None, *node.args[place + 1 :])
    return len(found)


def count_zero_states(graph: fx.GraphModule) -> int:
    """Return how many first states are constants of zeros."""
    return len(list(_zero_states(graph)))


def _zero_states(graph: fx.GraphModule) -> Iterator[tuple[fx.Node, int]]:
    for node in graph.graph.nodes:
        for place in _STATES.get(node.target, ()):
            state = held(graph, node.args[place])
            if state is not None and not state.any():
                yield node, place
