"""Folds batch normalisation into the layer before it.

With y = (W x + b - mean) * g + beta and g = gamma / sqrt(var + eps): W' = W g, b' = (b - mean) g +
beta, per output channel (Jacob et al. 2018, arXiv:1712.05877, section 3.2).

Folded: convolutions (1-D to 3-D, any groups) and linear layers with constant weights whose result
only the normalisation reads.
Left alone: transposed convolutions, and a normalisation after anything else, which stays.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.graph import held, hold, is_call, replace

_A = torch.ops.aten
_LAYERS = (_A.conv1d.default, _A.conv2d.default, _A.conv3d.default, _A.linear.default)
_NORMS = (_A.batch_norm.default, _A._native_batch_norm_legit_no_training.default)


def fold(graph: fx.GraphModule) -> int:
    """Fold in place; return how many normalisations went."""
    found = [node for node in graph.graph.nodes if _is_foldable(graph, node)]
    for norm in found:
        _fold_one(graph, norm)
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many normalisations could be folded."""
    return sum(_is_foldable(graph, node) for node in graph.graph.nodes)


def _is_foldable(graph: fx.GraphModule, norm: fx.Node) -> bool:
    if not is_call(norm, _NORMS[0]):
        return False
    layer = norm.args[0]
    if not is_call(layer, *_LAYERS) or not isinstance(layer, fx.Node) or len(layer.users) != 1:
        return False
    if len(norm.args) > 5 and norm.args[5]:  # training
        return False
    bias = layer.args[2] if len(layer.args) > 2 else None
    constant = held(graph, layer.args[1]) is not None
    constant = constant and (bias is None or held(graph, bias) is not None)
    return constant and all(held(graph, a) is not None for a in norm.args[3:5])


def _fold_one(graph: fx.GraphModule, norm: fx.Node) -> None:
    layer: Any = norm.args[0]
    gamma, beta, mean, variance = (held(graph, a) for a in norm.args[1:5])
    weight, bias = held(graph, layer.args[1]), held(graph, (*layer.args, None)[2])
    assert weight is not None and mean is not None and variance is not None  # noqa: S101, PT018
    eps: Any = norm.args[7] if len(norm.args) > 7 else 1e-5
    gain = torch.rsqrt(variance.double() + eps)
    gain = gain if gamma is None else gain * gamma.double()
    start = -mean.double() if bias is None else bias.double() - mean.double()
    offset = start * gain if beta is None else start * gain + beta.double()
    shaped = gain.reshape(-1, *[1] * (weight.dim() - 1))
    folded = hold(graph, (weight.double() * shaped).to(weight.dtype), layer)
    shift = hold(graph, offset.to(weight.dtype), layer)
    layer.args = (layer.args[0], folded, shift, *layer.args[3:])
    replace(norm, layer)
    graph.graph.erase_node(norm)
