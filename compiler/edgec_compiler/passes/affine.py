"""Chains of multiplications and additions of constants: as short as they can be, and as layers.

merge        ((x - m) * s) + t, as Keras writes a batch norm, becomes x * s + (t - m * s). What
             stays behind a ReLU, where no layer takes it up, is then quantised twice, not thrice.
as-layers    x * s + t over the channels of images becomes a depthwise convolution of one pixel: it
             is quantised by channel, with a bias of 32 bits, and rounds once. Only for TFLite.
Left alone: constants that would widen the value, integers, chains that something else reads within.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import ADD, DIV, MUL, SUB, call
from edgec_compiler.passes.graph import held, hold, is_call, replace, shape_of

_A = torch.ops.aten
_FROM = (_A.rsub.Scalar, _A.rsub.Tensor)  # the second minus the first


@dataclass(frozen=True, slots=True)
class _Chain:
    """`source` * gain + shift, in float64, which `steps` operators compute."""

    source: fx.Node
    gain: torch.Tensor
    shift: torch.Tensor
    steps: int

    @property
    def least(self) -> int:
        """With how many operators it could be computed."""
        return int(bool((self.gain != 1).any())) + int(bool((self.shift != 0).any()))


def merge(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many chains became shorter."""
    found = [node for node in graph.graph.nodes if _is_long(graph, node)]
    for node in found:
        chain = _chain(graph, node)
        new = chain.source
        for targets, constant, neutral in ((MUL, chain.gain, 1), (ADD, chain.shift, 0)):
            if bool((constant != neutral).any()):
                held_constant = hold(graph, constant.float(), node)
                new = call(graph, node, targets[0], (new, held_constant))
                new.meta |= {key: node.meta[key] for key in ("shape", "dtype")}
        replace(node, new)
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many chains could be shorter."""
    return sum(_is_long(graph, node) for node in graph.graph.nodes)


def as_layers(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many became depthwise convolutions."""
    found = [node for node in graph.graph.nodes if _by_channel(graph, node) is not None]
    for node in found:
        per_channel = _by_channel(graph, node)
        assert per_channel is not None  # noqa: S101  the list above holds no others
        source, gain, shift = per_channel
        weight = hold(graph, gain.float().reshape(-1, 1, 1, 1), node)
        bias = hold(graph, shift.float(), node)
        args = (source, weight, bias, [1, 1], [0, 0], [1, 1], gain.numel())
        replace(node, call(graph, node, _A.conv2d.default, args))
    return len(found)


def count_by_channel(graph: fx.GraphModule) -> int:
    """Return how many could become depthwise convolutions."""
    return sum(_by_channel(graph, node) is not None for node in graph.graph.nodes)


def _chain(graph: fx.GraphModule, node: fx.Node) -> _Chain:
    """Return the longest chain that ends with `node`; of no steps if it is no part of one."""
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    step = _step(graph, node)
    if step is None:
        return _Chain(node, one, zero, 0)
    source, gain, shift = step
    if len(source.users) > 1:
        return _Chain(source, gain, shift, 1)
    before = _chain(graph, source)
    return _Chain(before.source, before.gain * gain, before.shift * gain + shift, before.steps + 1)


def _step(graph: fx.GraphModule, node: Any) -> tuple[fx.Node, torch.Tensor, torch.Tensor] | None:
    """Return (x, gain, shift) of an operator that computes x * gain + shift."""
    if not is_call(node, *MUL, *DIV, *ADD, *SUB, *_FROM) or node.kwargs or len(node.args) != 2:
        return None
    if node.meta.get("dtype") != torch.float32:
        return None
    for x, other in (node.args, node.args[::-1]):
        constant = _constant(graph, other)
        if not isinstance(x, fx.Node) or held(graph, x) is not None or constant is None:
            continue
        if x.meta.get("dtype") != torch.float32 or shape_of(x) != shape_of(node):
            continue
        second = x is node.args[1]
        one, zero = torch.ones_like(constant), torch.zeros_like(constant)
        if is_call(node, *MUL):
            return x, constant, zero
        if is_call(node, *ADD):
            return x, one, constant
        if is_call(node, *SUB, *_FROM):
            taken = second if is_call(node, *SUB) else not second
            return (x, -one, constant) if taken else (x, one, -constant)
        if not second and bool((constant != 0).all()):
            return x, 1 / constant, zero
    return None


def _constant(graph: fx.GraphModule, value: Any) -> torch.Tensor | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return torch.tensor(float(value), dtype=torch.float64)
    tensor = held(graph, value)
    return None if tensor is None or not tensor.is_floating_point() else tensor.double()


def _is_long(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Return whether a chain ends here, that fewer operators could compute."""
    if _step(graph, node) is None or not node.users:
        return False
    if len(node.users) == 1 and _step(graph, next(iter(node.users))) is not None:
        return False  # it goes on
    chain = _chain(graph, node)
    return 0 < chain.least < chain.steps


def _by_channel(
    graph: fx.GraphModule, node: fx.Node
) -> tuple[fx.Node, torch.Tensor, torch.Tensor] | None:
    """Return (x, gains, shifts) of an image's channels, if a product and a sum do no more."""
    shape = shape_of(node)
    if not is_call(node, *ADD) or shape is None or len(shape) != 4:
        return None
    chain = _chain(graph, node)
    if chain.steps != 2 or chain.least != 2:
        return None
    channels = (1, shape[1], 1, 1)
    try:
        gain, shift = (one.broadcast_to(channels) for one in (chain.gain, chain.shift))
    except RuntimeError:  # it differs by more than the channel
        return None
    return chain.source, gain.reshape(-1), shift.reshape(-1)
