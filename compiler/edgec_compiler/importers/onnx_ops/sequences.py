"""Sequences of tensors and optional values. Shapes are static, so every length is known."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgec_compiler.importers.onnx_node import Node

Sequence = list[Tensor]


def _split_to_sequence(node: Node, x: Tensor, *_sizes: Tensor) -> Sequence:
    axis, keep = node.attr("axis", 0), bool(node.attr("keepdims", 1))
    if not node.has(1):
        return [one if keep else one.squeeze(axis) for one in torch.split(x, 1, axis)]
    sizes = node.constant(1, "split")
    size: Any = int(sizes) if sizes.ndim == 0 else [int(n) for n in sizes]
    return list(torch.split(x, size, axis))


def _at(node: Node, xs: Sequence, _place: Tensor) -> Tensor:
    return xs[node.ints(1, "position")[0]]


def _insert(node: Node, xs: Sequence, x: Tensor, *_place: Tensor) -> Sequence:
    place = node.ints(2, "position")[0] if node.has(2) else len(xs)
    place += len(xs) if place < 0 else 0
    return [*xs[:place], x, *xs[place:]]


def _erase(node: Node, xs: Sequence, *_place: Tensor) -> Sequence:
    place = (node.ints(1, "position")[0] if node.has(1) else -1) % len(xs)
    return [*xs[:place], *xs[place + 1 :]]


def _concat(node: Node, xs: Sequence) -> Tensor:
    axis = node.attr("axis", 0)
    return torch.stack(xs, axis) if node.attr("new_axis", 0) else torch.cat(xs, axis)


def _has_element(_node: Node, *given: Any) -> Tensor:
    return torch.tensor(bool(given) and given[0] is not None)


OPS: dict[str, Callable[..., Any]] = {
    "ConcatFromSequence": _concat,
    "Optional": lambda _node, *x: x[0] if x else None,
    "OptionalGetElement": lambda _node, x: x,
    "OptionalHasElement": _has_element,
    "SequenceAt": _at,
    "SequenceConstruct": lambda _node, *xs: list(xs),
    "SequenceEmpty": lambda _node: [],
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": lambda _node, xs: torch.tensor(len(xs), dtype=torch.int64),
    "SplitToSequence": _split_to_sequence,
}
