"""How large a graph is: parameters and multiply-accumulates of one inference."""

import math
from collections import Counter
from collections.abc import Mapping

from torch import fx

from edgec_compiler.composites import recurrent
from edgec_compiler.compress.layers import CONVOLUTIONS, LINEAR, PRODUCTS, TRANSPOSED
from edgec_compiler.passes.graph import held, shape_of


def parameters(graph: fx.GraphModule) -> int:
    """Return how many numbers the graph's constants hold."""
    return sum(math.prod(shape) for shape in weight_shapes(graph).values())


def weight_shapes(graph: fx.GraphModule) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every float constant that the graph reads, by its name."""
    found = {}
    for node in graph.graph.nodes:
        value = held(graph, node)
        if value is not None and value.is_floating_point():
            found[str(node.target)] = tuple(value.shape)
    return found


def macs(graph: fx.GraphModule) -> int:
    """Return the multiply-accumulates of convolutions, linear and recurrent layers, and products.

    Every node must know its shape (`passes.graph.observe`).
    """
    return sum(_macs(node) for node in graph.graph.nodes if node.op == "call_function")


def macs_by_weight(graph: fx.GraphModule) -> Counter[str]:
    """Return the multiply-accumulates in which each constant takes part, by its name."""
    found: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if node.op == "call_function":
            for read in node.all_input_nodes:
                if read.op == "get_attr" and len(shape_of(read) or ()) > 1:
                    found[str(read.target)] += _macs(node, read)
    return found


def _recurrent_macs(node: fx.Node, only: fx.Node | None) -> int:
    steps = math.prod((shape_of(node.args[0]) or (0,))[:2])  # [time, batch, input]
    weights = [one for one in node.args[1:3] if only is None or one is only]
    return steps * sum(math.prod(shape_of(one) or (0,)) for one in weights)


def _macs(node: fx.Node, only: fx.Node | None = None) -> int:
    """Return the multiply-accumulates of `node`, or those of one of its weights."""
    if node.target in (recurrent.GRU, recurrent.LSTM, recurrent.RNN):
        return _recurrent_macs(node, only)
    made, first = shape_of(node), shape_of(node.args[0]) if node.args else None
    if made is None or first is None:
        return 0
    if node.target in LINEAR or node.target in PRODUCTS:
        return math.prod(made) * first[-1]
    kernel = shape_of(node.args[1]) if len(node.args) > 1 else None
    if kernel is None:
        return 0
    if node.target in CONVOLUTIONS:
        return math.prod(made) * math.prod(kernel[1:])
    if node.target in TRANSPOSED:
        return math.prod(first) * math.prod(kernel[1:])
    if str(node.target) == "aten.addmm.default":
        return math.prod(made) * kernel[-1]
    return 0
