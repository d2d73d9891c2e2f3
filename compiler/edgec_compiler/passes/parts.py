"""Linear layers whose results are cut up become one layer for each part.

Attention makes queries, keys and values by one layer, gates and their values are made so, too. To
cut the result takes reshapes, transposes and slices, on all targets; to cut the weights, nothing.
Known: whatever reshapes, transposes, splits, slices and selects, in any order, as long as every
part has all rows, and a set of features that is the same for each.
Left alone: layers whose whole result anything reads, and parts that overlap.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import hold, is_call, replace, shape_of
from edgec_compiler.passes.scaling import layer_of

_A = torch.ops.aten
_LAYOUT = (
    *(_A.reshape.default, _A.unflatten.int, _A.flatten.using_ints, _A.unsqueeze.default),
    *(_A.squeeze.dim, _A.transpose.int, _A.permute.default, _A.select.int, _A.slice.Tensor),
    *(_A.split.Tensor, _A.split_with_sizes.default, _A.chunk.default, _A.unbind.int, getitem),
)


@dataclass(frozen=True, slots=True)
class _Part:
    """A value that holds all rows of a layer's result, and these features of them, in order."""

    node: fx.Node
    features: Tensor
    order: list[int]  # of its axes, if rows come first and features last


def split(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many layers were split."""
    found = [(node, parts) for node in graph.graph.nodes if (parts := _parts(graph, node))]
    for node, parts in found:
        for part in parts:
            _write(graph, node, part)
        graph.graph.eliminate_dead_code()
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many layers could be split."""
    return sum(bool(_parts(graph, node)) for node in graph.graph.nodes)


def _parts(graph: fx.GraphModule, node: Any) -> list[_Part]:
    shape = shape_of(node)
    if not is_call(node, _A.linear.default) or layer_of(graph, node) is None or shape is None:
        return []
    if not any(user.target in _LAYOUT for user in node.users):
        return []
    places = torch.arange(torch.Size(shape).numel()).reshape(shape)
    parts = [
        _part(reader, made, shape[-1]) for reader, made in _pieces(node, places, places.numel())
    ]
    known = [part for part in parts if part is not None]
    features = sum(part.features.numel() for part in known)
    return known if len(known) == len(parts) and features <= shape[-1] else []


def _pieces(node: fx.Node, places: Any, count: int) -> Iterator[tuple[fx.Node, Any]]:
    """Yield what first holds less than all, or reads all otherwise, and which places it holds."""
    for reader in node.users:
        if reader.target not in _LAYOUT or reader.kwargs:
            yield reader, None
            continue
        assert callable(reader.target)  # noqa: S101  an operator of the table
        made = reader.target(places, *reader.args[1:])
        if isinstance(made, Tensor) and made.numel() < count:
            yield reader, made
        else:
            yield from _pieces(reader, made, count)


def _part(node: fx.Node, places: Tensor | None, width: int) -> _Part | None:
    if places is None or not places.numel():
        return None
    first = places.reshape(-1)[0]
    steps = [
        int(places.select(axis, 1).reshape(-1)[0] - first) if size > 1 else 0
        for axis, size in enumerate(places.shape)
    ]
    long = [axis for axis, step in enumerate(steps) if step]
    ordered = dict(zip(long, sorted(long, key=lambda axis: -steps[axis]), strict=True))
    order = [ordered.get(axis, axis) for axis in range(places.dim())]
    rows = places.permute(order).reshape(-1)
    features = rows[rows < width]
    if not features.numel() or rows.numel() % features.numel():
        return None
    wanted = torch.arange(rows.numel() // features.numel())[:, None] * width + features
    return _Part(node, features, order) if torch.equal(rows, wanted.reshape(-1)) else None


def _write(graph: fx.GraphModule, node: fx.Node, part: _Part) -> None:
    layer, shape, made = layer_of(graph, node), shape_of(node), shape_of(part.node)
    assert layer is not None and shape and made is not None  # noqa: S101, PT018  see _parts
    weight = hold(graph, layer.weight[part.features], part.node)
    bias = None if layer.bias is None else hold(graph, layer.bias[part.features], part.node)
    new = call(graph, part.node, _A.linear.default, (node.args[0], weight, bias))
    new.meta |= {"shape": (*shape[:-1], part.features.numel()), "dtype": node.meta["dtype"]}
    if made != new.meta["shape"]:
        ordered = [made[axis] for axis in part.order]
        new = call(graph, part.node, _A.reshape.default, (new, ordered))
        new.meta |= {"shape": tuple(ordered), "dtype": node.meta["dtype"]}
    if part.order != sorted(part.order):
        back = [part.order.index(axis) for axis in range(len(made))]
        new = call(graph, part.node, _A.permute.default, (new, back))
    replace(part.node, new)
