"""Folds multiplications and additions of constants into the layer before or behind them.

behind a layer   (W x + b) * s + t  ->  W' = W s, b' = b s + t, per output channel.
before a layer   W (x * s + t) + b  ->  W' = W s, b' = b + W t, per input channel.

Folded: convolutions, transposed ones of one group and linear layers with constant weights, where
the constant is a number or differs by channel only, and nothing else reads the value between. Edges
may be cut off behind a layer first, as Keras does with transposed convolutions.
Left alone: an addition before a layer that pads (the padding was never added to), grouped layers
for what comes before, and a constant divided by or minus a layer.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import ADD, DIV, MUL, SUB, number_of
from edgec_compiler.passes.graph import held, hold, is_call, replace, shape_of

_A = torch.ops.aten
CONVOLUTIONS = (_A.conv1d.default, _A.conv2d.default, _A.conv3d.default)
_LAYOUT = (_A.reshape.default, _A.permute.default, _A.transpose.int)
TRANSPOSED = (_A.conv_transpose1d.default, _A.conv_transpose2d.input)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with constant weights, and which axes are its channels."""

    node: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    out_axis: int  # of the weight
    in_axis: int
    channels: int  # axis of the values

    def per_output(self, gain: torch.Tensor) -> torch.Tensor:
        """Return one number per output channel in the shape that multiplies the weight."""
        return self._along(gain, self.out_axis)

    def per_input(self, gain: torch.Tensor) -> torch.Tensor:
        """Return one number per input channel in the shape that multiplies the weight."""
        return self._along(gain, self.in_axis)

    def _along(self, gain: torch.Tensor, axis: int) -> torch.Tensor:
        return gain.reshape([-1 if i == axis else 1 for i in range(self.weight.dim())])

    def set(self, graph: fx.GraphModule, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Give the layer new constants of the same shapes."""
        args: list[Any] = [*self.node.args, *[None] * (3 - len(self.node.args))]
        args[1] = hold(graph, weight.to(self.weight.dtype), self.node)
        if bias is not None:
            args[2] = hold(graph, bias.to(self.weight.dtype), self.node)
        self.node.args = tuple(args)


def layer_of(graph: fx.GraphModule, node: Any) -> Layer | None:
    """Return what `node` is if it is a layer of a batch whose weights are constants."""
    if not is_call(node, *CONVOLUTIONS, *TRANSPOSED, _A.linear.default) or node.kwargs:
        return None
    weight, bias = held(graph, node.args[1]), (*node.args, None)[2]
    known = held(graph, bias)
    if weight is None or (bias is not None and known is None):
        return None
    if is_call(node, _A.linear.default):
        return Layer(node, weight, known, 0, 1, -1)
    shape = shape_of(node)
    if shape is not None and len(shape) != weight.dim():
        return None  # one image without a batch: its channels are axis 0
    if is_call(node, *TRANSPOSED):
        single = len(node.args) < 7 or node.args[6] == 1
        return Layer(node, weight, known, 1, 0, 1) if single else None
    return Layer(node, weight, known, 0, 1, 1)


def fold(graph: fx.GraphModule) -> int:
    """Fold in place; return how many multiplications and additions went."""
    folded = 0
    while True:
        found = next((f for n in graph.graph.nodes if (f := _folding(graph, n))), None)
        if found is None:
            return folded
        node, layer, constant, behind = found
        (_fold_behind if behind else _fold_before)(graph, node, layer, constant)
        graph.graph.eliminate_dead_code()
        folded += 1


def count(graph: fx.GraphModule) -> int:
    """Return how many could be folded."""
    return sum(_folding(graph, node) is not None for node in graph.graph.nodes)


Folding = tuple[fx.Node, Layer, torch.Tensor, bool]


def _folding(graph: fx.GraphModule, node: Any) -> Folding | None:
    """Return the node, the layer it can go into, the constant, and whether it is behind it."""
    if not is_call(node, *MUL, *DIV, *ADD, *SUB) or node.kwargs or len(node.args) != 2:
        return None
    for x, other in (node.args, node.args[::-1]):
        if not isinstance(x, fx.Node) or not node.users:
            continue
        if x is node.args[1] and is_call(node, *DIV, *SUB):
            continue
        layer = _layer_behind(graph, x, number=number_of(graph, other) is not None)
        if layer is not None:
            constant = _per_channel(graph, other, x, layer, layer.weight.shape[layer.out_axis])
            if constant is not None:
                return node, layer, constant, True
        reader = next(iter(node.users)) if len(node.users) == 1 else None
        layer = layer_of(graph, reader)
        if layer is not None and reader is not None and reader.args[0] is node:
            constant = _per_channel(graph, other, x, layer, layer.weight.shape[layer.in_axis])
            if constant is not None and _may_come_before(node, x, layer):
                return node, layer, constant, False
    return None


def _layer_behind(graph: fx.GraphModule, x: fx.Node, *, number: bool) -> Layer | None:
    """Return the layer that makes x, which nobody else reads, perhaps less cut-off edges.

    What is done with a `number` may come before any change of layout, too.
    """
    cut = set()
    while len(x.users) == 1 and x.args and isinstance(x.args[0], fx.Node):
        if is_call(x, _A.slice.Tensor):
            cut.add(int(str((*x.args, 0)[1])) % len(shape_of(x) or (1,)))
        elif not (number and is_call(x, *_LAYOUT)):
            break
        x = x.args[0]
    layer = layer_of(graph, x) if len(x.users) == 1 else None
    if layer is None or (not number and layer.channels % len(shape_of(x) or (1,)) in cut):
        return None
    return layer


def _may_come_before(node: Any, x: fx.Node, layer: Layer) -> bool:
    if shape_of(x) != shape_of(node):
        return False
    if is_call(layer.node, _A.linear.default):
        return True
    if not is_call(layer.node, *CONVOLUTIONS) or (*layer.node.args, *[1] * 7)[6] != 1:
        return False
    paddings: Any = (*layer.node.args, *[0] * 7)[4] if len(layer.node.args) > 4 else 0
    pads = any(paddings) if isinstance(paddings, list | tuple) else bool(paddings)
    return is_call(node, *MUL, *DIV) or not pads


def _per_channel(
    graph: fx.GraphModule, value: Any, x: fx.Node, layer: Layer, channels: int
) -> torch.Tensor | None:
    """Return a constant as one number per channel, in double precision, or None."""
    shape = shape_of(x)
    tensor = torch.tensor(float(value)) if isinstance(value, int | float) else held(graph, value)
    if shape is None or tensor is None or not layer.weight.is_floating_point():
        return None
    if tensor.numel() == 1:
        fits = tensor.dim() <= len(shape)
        return tensor.double().reshape(1).expand(channels) if fits else None
    axis = layer.channels % len(shape)
    aligned = (1,) * (len(shape) - tensor.dim()) + tuple(tensor.shape)
    wanted = tuple(channels if i == axis else 1 for i in range(len(shape)))
    return tensor.double().reshape(-1) if aligned == wanted else None


def _gain_and_shift(
    node: Any, constant: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    if is_call(node, *MUL):
        return constant, None
    if is_call(node, *DIV):
        return 1 / constant, None
    return None, constant if is_call(node, *ADD) else -constant


def _fold_behind(graph: fx.GraphModule, node: Any, layer: Layer, constant: torch.Tensor) -> None:
    gain, shift = _gain_and_shift(node, constant)
    weight = layer.weight.double()
    bias = None if layer.bias is None else layer.bias.double()
    if gain is not None:
        weight = weight * layer.per_output(gain)
        bias = None if bias is None else bias * gain
    if shift is not None:
        bias = shift if bias is None else bias + shift
    layer.set(graph, weight, bias)
    x = next(a for a in node.args if isinstance(a, fx.Node) and held(graph, a) is None)
    replace(node, x)
    graph.graph.erase_node(node)


def _fold_before(graph: fx.GraphModule, node: Any, layer: Layer, constant: torch.Tensor) -> None:
    gain, shift = _gain_and_shift(node, constant)
    weight = layer.weight.double()
    bias = None if layer.bias is None else layer.bias.double()
    if gain is not None:
        weight = weight * layer.per_input(gain)
    if shift is not None:
        others = [i for i in range(weight.dim()) if i != layer.out_axis]
        added = (weight * layer.per_input(shift)).sum(others)
        bias = added if bias is None else bias + added
    layer.set(graph, weight, bias)
    x = next(a for a in node.args if isinstance(a, fx.Node) and held(graph, a) is None)
    layer.node.args = (x, *layer.node.args[1:])
