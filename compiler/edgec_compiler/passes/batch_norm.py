"""Folds batch normalisation into the layer before it.

With y = (W x + b - mean) * g + beta and g = gamma / sqrt(var + eps): W' = W g, b' = (b - mean) g +
beta, per output channel (Jacob et al. 2018, arXiv:1712.05877, section 3.2).

Folded: convolutions (1-D to 3-D, any groups), transposed ones of one group and linear layers with
constant weights whose result only the normalisation reads.
Left alone: a normalisation after anything else, and of another axis than the layer's channels.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.graph import held, is_call, replace, shape_of
from edgec_compiler.passes.scaling import layer_of

_A = torch.ops.aten
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
    layer = layer_of(graph, norm.args[0])
    if layer is None or len(layer.node.users) != 1:
        return False
    if len(norm.args) > 5 and norm.args[5]:  # training
        return False
    if layer.channels == -1 and len(shape_of(layer.node) or ()) != 2:
        return False  # it normalises axis 1; the linear layer's channels are the last
    return all(held(graph, a) is not None for a in norm.args[3:5])


def _fold_one(graph: fx.GraphModule, norm: fx.Node) -> None:
    layer = layer_of(graph, norm.args[0])
    gamma, beta, mean, variance = (held(graph, a) for a in norm.args[1:5])
    assert layer is not None and mean is not None and variance is not None  # noqa: S101, PT018
    eps: Any = norm.args[7] if len(norm.args) > 7 else 1e-5
    gain = torch.rsqrt(variance.double() + eps)
    gain = gain if gamma is None else gain * gamma.double()
    start = -mean.double() if layer.bias is None else layer.bias.double() - mean.double()
    offset = start * gain if beta is None else start * gain + beta.double()
    layer.set(graph, layer.weight.double() * layer.per_output(gain), offset)
    replace(norm, layer.node)
    graph.graph.erase_node(norm)
