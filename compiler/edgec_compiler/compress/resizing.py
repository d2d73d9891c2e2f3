"""Makes a graph smaller: takes slices out of its weights and mends what names sizes."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgec_compiler.compress.atoms import Ids
from edgec_compiler.compress.constants import set_value, values_of
from edgec_compiler.compress.layers import CONVOLUTIONS, groups_of
from edgec_compiler.compress.tracing import Trace
from edgec_compiler.passes.graph import shape_of

_A = torch.ops.aten
_SIZED = (_A.reshape.default, _A.expand.default)
_SPLITS = (_A.chunk.default, _A.split.Tensor, _A.split_with_sizes.default)

Kept = npt.NDArray[np.bool_]  # for every atom whether it stays


def shrink(trace: Trace, kept: Kept) -> None:
    """Take out of the trace's graph, in place, every slice whose atom is not `kept`."""
    graph = trace.graph
    for node in list(graph.graph.nodes):
        if node.op == "call_function":
            _mend(trace, node, kept)
    for (weight, axis), ids in trace.atoms.cuts.items():
        if not kept[ids].all():
            left = values_of(graph)[weight].index_select(axis, _left(ids, kept))
            set_value(graph, weight, left)
    graph.graph.lint()
    graph.recompile()


def _left(ids: Ids, kept: Kept) -> torch.Tensor:
    return torch.from_numpy(np.flatnonzero(kept[ids]))


def _mend(trace: Trace, node: fx.Node, kept: Kept) -> None:
    """Write the new sizes into a node's arguments."""
    axes = trace.axes.get(node, {})
    if node.target in _SIZED:
        node.args = (node.args[0], _sizes(node, node.args[1], 0, axes, kept))
    elif node.target is _A.unflatten.int:
        rank = len(shape_of(node.args[0]) or ())
        first = int(node.args[1]) % rank  # type: ignore[arg-type]
        node.args = (*node.args[:2], _sizes(node, node.args[2], first, axes, kept))
    elif node.target in CONVOLUTIONS and groups_of(node) > 1:
        _mend_groups(trace, node, kept)
    elif node.target is _A.slice.Tensor:
        _mend_slice(trace, node, kept)
    elif node.target in _SPLITS and node in trace.parts:
        _mend_split(trace, node, kept)


def _sizes(node: fx.Node, given: Any, first: int, axes: dict[int, Ids], kept: Kept) -> list[Any]:
    """Return the sizes `given`, those of axes `first`, `first` + 1, ... of the result."""
    return [
        int(kept[axes[first + i]].sum()) if size != -1 and first + i in axes else size
        for i, size in enumerate(given)
    ]


def _mend_groups(trace: Trace, node: fx.Node, kept: Kept) -> None:
    source: Any = node.args[0]
    inner = (shape_of(node.args[1]) or (0, 0))[1]
    ids = trace.axes.get(source, {}).get(
        len(shape_of(node) or ()) - len(shape_of(node.args[1]) or ()) + 1
    )
    if inner != 1 or ids is None:
        return
    groups = int(kept[ids].sum())
    defaults: list[Any] = [None, None, None, 1, 0, 1, 1]
    arguments = [*node.args, *defaults[len(node.args) :]]
    for place, name in enumerate(("stride", "padding", "dilation"), 3):
        arguments[place] = node.kwargs.get(name, arguments[place])
    arguments[2] = node.kwargs.get("bias", arguments[2])
    arguments[6] = groups
    node.args, node.kwargs = tuple(arguments), {}


def _mend_slice(trace: Trace, node: fx.Node, kept: Kept) -> None:
    source: Any = node.args[0]
    rank = len(shape_of(source) or ())
    arguments: list[Any] = [*node.args, *(source, 0, None, None, 1)[len(node.args) :]]
    ids = trace.axes.get(source, {}).get(arguments[1] % rank)
    if ids is None or arguments[4] != 1:
        return
    start, end, _ = slice(arguments[2], arguments[3]).indices(len(ids))
    before, inside = int(kept[ids[:start]].sum()), int(kept[ids[start:end]].sum())
    node.args = (source, arguments[1], before, before + inside, 1)


def _mend_split(trace: Trace, node: fx.Node, kept: Kept) -> None:
    source: Any = node.args[0]
    rank = len(shape_of(source) or ())
    given: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    sizes = [int(kept[part[given % rank]].sum()) for part in trace.parts[node]]
    node.target = _A.split_with_sizes.default
    node.args, node.kwargs = (source, sizes, given), {}
