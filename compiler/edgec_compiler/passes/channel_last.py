"""Operators that channel-last integer models have no form for, in ones that they have.

pixel-shuffle    becomes a transposed convolution, pixel-unshuffle a convolution, with weights of 0
                 and 1: each output is one input, so nothing is rounded, and nothing transposed.
channel-shuffle  (view, transpose, view) becomes a 1x1 convolution with such weights.
prelu            becomes relu(x) - a * relu(-x), leaky relu the larger of x and a * x: the integer
                 quantiser knows neither, and would leave them in float.
difference       constant - layer becomes layer * -1 + constant: LiteRT's converter would fold it
                 into the layer as layer - constant.
Only for TFLite: other runtimes have these operators themselves.
Left alone: shuffles of more than 256 channels, whose convolution would cost more than it saves.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import SUB, call
from edgec_compiler.passes.graph import held, hold, is_call, replace, shape_of
from edgec_compiler.passes.scaling import CONVOLUTIONS, TRANSPOSED
from edgec_compiler.passes.transposes import order_of

_A = torch.ops.aten
_PRELUS = (_A.prelu.default, _A._prelu_kernel.default)
_LEAKY = (_A.leaky_relu.default, _A.leaky_relu_.default)
_MOST = 256


def convolve_shuffles(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many shuffles became convolutions."""
    found = [node for node in graph.graph.nodes if _is_shuffle(node)]
    for node in found:
        x, new = _convolved(graph, node)
        replace(node, call(graph, node, new[0], (x, *new[1:])))
    graph.graph.eliminate_dead_code()
    return len(found)


def count_shuffles(graph: fx.GraphModule) -> int:
    """Return how many shuffles there are."""
    return sum(_is_shuffle(node) for node in graph.graph.nodes)


def _is_shuffle(node: Any) -> bool:
    if not node.users or not _is_float(node):
        return False
    if is_call(node, _A.pixel_shuffle.default, _A.pixel_unshuffle.default):
        shapes = shape_of(node.args[0]), shape_of(node)
        return all(s is not None and len(s) == 4 and s[1] <= _MOST for s in shapes)
    return _shuffled(node) is not None


def _shuffled(node: Any) -> tuple[Any, int] | None:
    """Return x and the number of groups if `node` is a channel shuffle of x."""
    new = shape_of(node)
    if not is_call(node, _A.reshape.default) or new is None or len(new) != 4 or new[1] > _MOST:
        return None
    swap: Any = node.args[0]
    if order_of(swap) != [0, 2, 1, 3, 4] or not is_call(swap.args[0], _A.reshape.default):
        return None
    x, split = swap.args[0].args[0], shape_of(swap.args[0])
    if split is None or shape_of(x) != new or split[3:] != new[2:] or split[0] != new[0]:
        return None
    return x, split[1]


def _convolved(graph: fx.GraphModule, node: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the input, and the convolution's target and its other arguments."""
    shuffled = _shuffled(node)
    if shuffled is not None:
        x, groups = shuffled
        channels = (shape_of(node) or ())[1]
        order = torch.arange(channels).reshape(groups, -1).t().reshape(-1)
        weight = torch.eye(channels)[order].reshape(channels, channels, 1, 1)
        return x, (_A.conv2d.default, hold(graph, weight, node))
    x, factor = node.args[0], int(str(node.args[1]))
    wide = shape_of(x if is_call(node, _A.pixel_shuffle.default) else node)
    assert wide is not None  # noqa: S101  _is_shuffle has looked
    narrow = wide[1] // factor**2
    weight = torch.eye(wide[1]).reshape(wide[1], narrow, factor, factor)
    target = _A.conv2d.default
    if is_call(node, _A.pixel_shuffle.default):
        target = _A.conv_transpose2d.input
    return x, (target, hold(graph, weight, node), None, [factor, factor])


def write_prelus(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many."""
    found = [node for node in graph.graph.nodes if _is_prelu(graph, node)]
    for node in found:
        x: Any = node.args[0]
        if is_call(node, *_LEAKY):
            lower = call(graph, node, _A.mul.Tensor, (x, _slope(node)))
            replace(node, call(graph, node, _A.maximum.default, (x, lower)))
            graph.graph.erase_node(node)
            continue
        shape, slope = shape_of(x), held(graph, node.args[1])
        assert shape is not None and slope is not None  # noqa: S101, PT018  _is_prelu has looked
        if slope.numel() > 1 and slope.dim() == 1:
            slope = slope.reshape([-1] + [1] * (len(shape) - 2))
        above = call(graph, node, _A.relu.default, (x,))
        below = call(graph, node, _A.relu.default, (call(graph, node, _A.neg.default, (x,)),))
        scaled = call(graph, node, _A.mul.Tensor, (below, hold(graph, slope, node)))
        replace(node, call(graph, node, _A.sub.Tensor, (above, scaled)))
        graph.graph.erase_node(node)
    return len(found)


def count_prelus(graph: fx.GraphModule) -> int:
    """Return how many there are."""
    return sum(_is_prelu(graph, node) for node in graph.graph.nodes)


def _slope(node: Any) -> float:
    return float(node.args[1]) if len(node.args) > 1 else 0.01


def _is_prelu(graph: fx.GraphModule, node: Any) -> bool:
    if is_call(node, *_LEAKY) and not node.kwargs:
        return 0 <= _slope(node) <= 1
    if not is_call(node, *_PRELUS) or shape_of(node.args[0]) is None:
        return False
    return held(graph, node.args[1]) is not None


def turn_differences(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many."""
    found = [node for node in graph.graph.nodes if _is_turned_difference(graph, node)]
    for node in found:
        constant, x = _difference(node)
        negative = call(graph, node, _A.mul.Tensor, (x, -1.0))
        replace(node, call(graph, node, _A.add.Tensor, (negative, constant)))
        graph.graph.erase_node(node)
    return len(found)


def count_differences(graph: fx.GraphModule) -> int:
    """Return how many constants a layer is taken from."""
    return sum(_is_turned_difference(graph, node) for node in graph.graph.nodes)


def _is_turned_difference(graph: fx.GraphModule, node: Any) -> bool:
    if not is_call(node, *SUB, _A.rsub.Scalar) or len(node.args) != 2 or node.kwargs:
        return False
    constant, x = _difference(node)
    if held(graph, constant) is None and not isinstance(constant, int | float):
        return False
    while is_call(x, _A.reshape.default, _A.permute.default, _A.transpose.int, _A.squeeze.dim):
        x = x.args[0]
    return _is_float(node) and is_call(x, *CONVOLUTIONS, *TRANSPOSED, _A.linear.default)


def _difference(node: Any) -> tuple[Any, Any]:
    """Return what is taken from, and what is taken."""
    one, other = node.args
    return (other, one) if is_call(node, _A.rsub.Scalar) else (one, other)


def _is_float(node: fx.Node) -> bool:
    return bool(getattr(node.meta.get("dtype"), "is_floating_point", False))
