"""Cross-layer equalisation: neighbouring layers share out the ranges of the channels between them.

For layers W1 and W2 with nothing but positively homogeneous operators between (f(s x) = s f(x) for
s > 0), channel i of W1 is divided and of W2 multiplied by s_i = sqrt(r1_i r2_i) / r2_i, where r1_i
and r2_i are the channel's largest weights in both; pairs are visited until nothing moves. The float
function stays what it was (Nagel et al. 2019, arXiv:1906.04721, section 4.1, eq. 9-11).

Between:    relu, leaky relu, pools, zero padding, a view from [N, C, 1, 1] to [N, C].
Left alone: relu6 and other clamps (they are not homogeneous), values that a second reader takes
(residuals), transposed convolutions. High biases are not absorbed (section 4.1.3).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.graph import is_call, shape_of
from edgec_compiler.passes.scaling import CONVOLUTIONS, Layer, layer_of

_A = torch.ops.aten
_HOMOGENEOUS = (
    _A.relu.default,
    _A.relu_.default,
    _A.leaky_relu.default,
    _A.max_pool1d.default,
    _A.max_pool2d.default,
    _A.avg_pool1d.default,
    _A.avg_pool2d.default,
    _A.adaptive_avg_pool1d.default,
    _A.adaptive_avg_pool2d.default,
)
_PADS = (_A.pad.default, _A.constant_pad_nd.default)
_VIEWS = (_A.reshape.default, _A.flatten.using_ints)
_LAYERS = (*CONVOLUTIONS, _A.linear.default)
_SWEEPS = 30
_SETTLED = 1e-3  # of a factor's logarithm: less is no change


def equalise(graph: fx.GraphModule) -> int:
    """Equalise in place; return how many pairs of layers there were."""
    pairs = list(_pairs(graph))
    weights: dict[fx.Node, torch.Tensor] = {}
    biases: dict[fx.Node, torch.Tensor | None] = {}
    layers: dict[fx.Node, Layer] = {}
    for layer in (one for pair in pairs for one in pair):
        layers[layer.node] = layer
        weights[layer.node] = layer.weight.double()
        biases[layer.node] = None if layer.bias is None else layer.bias.double()
    for _ in range(_SWEEPS):
        moved = 0.0
        for first, second in pairs:
            one, other = weights[first.node], weights[second.node]
            factors = _factors(_peaks_out(one), _peaks_in(second, other, len(one)))
            weights[first.node] = one / first.per_output(factors)
            bias = biases[first.node]
            biases[first.node] = None if bias is None else bias / factors
            weights[second.node] = other * _per_input(second, other, factors)
            moved = max(moved, float(factors.log().abs().max()))
        if moved < _SETTLED:
            break
    for node, layer in layers.items():
        layer.set(graph, weights[node], biases[node])
    return len(pairs)


def _pairs(graph: fx.GraphModule) -> Iterator[tuple[Layer, Layer]]:
    for node in graph.graph.nodes:
        first = layer_of(graph, node) if is_call(node, *_LAYERS) else None
        reader = _reader(node) if first is not None else None
        second = layer_of(graph, reader) if is_call(reader, *_LAYERS) else None
        if first is None or second is None:
            continue
        channels = first.weight.shape[0]
        if channels == second.weight.shape[1] * _groups(second):
            yield first, second


def _reader(node: fx.Node) -> fx.Node | None:
    """Return the layer that alone reads a layer's channels, scaled as they are, or None."""
    shape = shape_of(node)
    if shape is None:
        return None
    axis = len(shape) - 1 if is_call(node, _A.linear.default) else 1
    while len(node.users) == 1:
        reader = next(iter(node.users))
        if not reader.args or reader.args[0] is not node:
            return None
        if is_call(reader, *_LAYERS):
            linear = is_call(reader, _A.linear.default)
            return reader if axis == (len(shape) - 1 if linear else 1) else None
        made = shape_of(reader)
        if made is None or not _is_homogeneous(reader, shape, made):
            return None
        node, shape = reader, made
    return None


def _is_homogeneous(node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    if is_call(node, *_PADS):
        value: Any = node.args[-1] if is_call(node, _A.constant_pad_nd.default) else None
        constant = is_call(node, _A.constant_pad_nd.default) or len(node.args) < 3
        pads: Any = node.args[1]
        return constant and not node.kwargs and value in (None, 0, 0.0) and len(pads) <= 4
    if is_call(node, *_VIEWS):
        return len(after) == 2 and before[:2] == after and all(size == 1 for size in before[2:])
    return is_call(node, *_HOMOGENEOUS)


def _groups(layer: Layer) -> int:
    args = layer.node.args
    return int(str(args[6])) if is_call(layer.node, *CONVOLUTIONS) and len(args) > 6 else 1


def _peaks_out(weight: torch.Tensor) -> torch.Tensor:
    """Return the largest weight of every output channel."""
    return weight.abs().reshape(len(weight), -1).amax(1)


def _peaks_in(layer: Layer, weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Return the largest weight that every input channel meets."""
    groups = _groups(layer)
    split = weight.abs().reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return split.amax((1, 3)).reshape(channels)


def _per_input(layer: Layer, weight: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Return factors of input channels in a shape that multiplies the weight."""
    groups = _groups(layer)
    rows = factors.reshape(groups, weight.shape[1]).repeat_interleave(len(weight) // groups, 0)
    return rows.reshape(*rows.shape, *[1] * (weight.dim() - 2))


def _factors(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return s per channel; 1 where a channel is dead in either layer."""
    alive = (first > 0) & (second > 0)
    return torch.where(alive, (first / second.clamp_min(1e-300)).sqrt(), 1.0)
