"""The weights of a graph as training sees them: free, masked, clustered, on an integer grid.

Each is a module without inputs that returns the weight; gradients reach what it may change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from edgec_compiler.composites import recurrent
from edgec_compiler.compress.layers import CONVOLUTIONS, LINEAR, PRODUCTS, TRANSPOSED, groups_of
from edgec_compiler.passes.graph import held, is_call, shape_of

_A = torch.ops.aten
_RECURRENT = (_A.gru.input, _A.lstm.input, _A.rnn_tanh.input, _A.rnn_relu.input)
_WHOLE = (recurrent.GRU, recurrent.LSTM, recurrent.RNN)  # [directions, out, in]
_AFFINE: dict[Any, tuple[int, ...]] = {  # which arguments of a layer learn, besides the matrices
    _A.batch_norm.default: (1, 2),
    _A.layer_norm.default: (2, 3),
    _A.group_norm.default: (2, 3),
    _A.prelu.default: (1,),
    _A.embedding.default: (0,),
    _A.addmm.default: (0,),
}
_MATRIX_RANK = 2


@dataclass(frozen=True, slots=True)
class Matrix:
    """A constant matrix or kernel of a layer, and which of its axes are its ends."""

    name: str
    output_axis: int
    input_axis: int
    grouped: bool  # a grouped or depthwise convolution: its input axis is a part only


def matrices(graph: fx.GraphModule) -> tuple[Matrix, ...]:
    """Return the matrices and kernels of `graph`, in order, each once."""
    found: dict[str, Matrix] = {}
    for node in graph.graph.nodes:
        for value, output, inner, grouped in _ends(node):
            constant = held(graph, value)
            if constant is not None and constant.is_floating_point() and constant.dim() > 1:
                found.setdefault(
                    str(value.target), Matrix(str(value.target), output, inner, grouped)
                )
    return tuple(found.values())


def _ends(node: fx.Node) -> Iterator[tuple[Any, int, int, bool]]:
    if node.op != "call_function":
        return
    if node.target in CONVOLUTIONS:
        yield node.args[1], 0, 1, groups_of(node) > 1
    elif node.target in TRANSPOSED:
        yield node.args[1], 1, 0, groups_of(node) > 1
    elif node.target in LINEAR:
        yield node.args[1], 0, 1, False
    elif node.target in PRODUCTS and len(shape_of(node.args[1]) or ()) == _MATRIX_RANK:
        yield node.args[1], 1, 0, False
    elif is_call(node, _A.addmm.default):
        yield node.args[2], 1, 0, False
    elif node.target in _RECURRENT:
        for value in node.args[2]:  # type: ignore[union-attr]
            yield value, 0, 1, False
    elif node.target in _WHOLE:
        yield node.args[1], 1, 2, False
        yield node.args[2], 1, 2, False


def learnable(graph: fx.GraphModule) -> tuple[str, ...]:
    """Return the names of the constants that training may change: layers' own, nothing else."""
    found = dict.fromkeys(matrix.name for matrix in matrices(graph))
    for node in graph.graph.nodes:
        for value in _vectors(node):
            constant = held(graph, value)
            if constant is not None and constant.is_floating_point():
                found[str(value.target)] = None
    return tuple(found)


def _vectors(node: fx.Node) -> Iterator[Any]:
    if node.op != "call_function":
        return
    if node.target in (*CONVOLUTIONS, *TRANSPOSED, *LINEAR):
        yield from node.args[2:3]
    elif node.target in _RECURRENT:
        yield from node.args[2]  # type: ignore[misc]
    elif node.target in _WHOLE:
        yield node.args[3]
    elif is_call(node, _A.add.Tensor) and any(is_call(a, *PRODUCTS) for a in node.args):
        yield from node.args[:2]
    for place in _AFFINE.get(node.target, ()):
        yield from node.args[place : place + 1]


class Masked(nn.Module):
    """A weight whose zeros stay; the mask is all ones for a free one."""

    def __init__(self, value: torch.Tensor, mask: torch.Tensor | None = None) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().clone())
        self.mask: torch.Tensor | None
        self.register_buffer("mask", mask)

    def forward(self) -> torch.Tensor:
        """Return the weight."""
        return self.value if self.mask is None else self.value * self.mask


class Clustered(nn.Module):
    """A weight whose values are few: one of the centroids, times its channel's scale."""

    centroids: torch.Tensor
    fixed: torch.Tensor
    index: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        centroids: torch.Tensor,
        fixed: torch.Tensor,
        index: torch.Tensor,
        scale: torch.Tensor,
    ) -> None:
        super().__init__()
        self.moving = nn.Parameter(centroids.detach().clone())
        self.register_buffer("centroids", centroids.detach().clone())
        self.register_buffer("fixed", fixed)
        self.register_buffer("index", index)
        self.register_buffer("scale", scale)

    def forward(self) -> torch.Tensor:
        """Return the weight."""
        values = torch.where(self.fixed, self.centroids, self.moving)
        return values[self.index] * self.scale


class OnGrid(nn.Module):
    """A weight rounded to symmetric integers per output channel; gradients pass straight through.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1; straight-through estimator of Bengio
    et al. 2013, arXiv:1308.3432.
    """

    def __init__(self, inner: nn.Module, bits: int, axis: int) -> None:
        super().__init__()
        self.inner, self.bits, self.axis = inner, bits, axis

    def forward(self) -> torch.Tensor:
        """Return the weight."""
        value: torch.Tensor = self.inner()
        peak = (
            value.detach()
            .abs()
            .amax([a for a in range(value.dim()) if a != self.axis], keepdim=True)
        )
        scale = torch.where(peak > 0, peak / (2 ** (self.bits - 1) - 1), torch.ones_like(peak))
        return value + ((value / scale).round() * scale - value).detach()


Weights = Mapping[str, nn.Module]
