"""Reads written-out arithmetic: what factors, terms and numbers a value is made of."""

import math
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.graph import held, is_call

_A = torch.ops.aten
MUL = (_A.mul.Tensor, _A.mul.Scalar)
DIV = (_A.div.Tensor, _A.div.Scalar)
ADD = (_A.add.Tensor, _A.add.Scalar)
SUB = (_A.sub.Tensor, _A.sub.Scalar)


def close(value: float, wanted: float) -> bool:
    """Return whether a constant is the one meant, as exporters round it."""
    return math.isclose(value, wanted, rel_tol=1e-4)


def number_of(graph: fx.GraphModule, value: Any) -> float | None:
    """Return the number that an argument is: given so, or as a constant of one element."""
    if isinstance(value, int | float):
        return float(value)
    tensor = held(graph, value)
    return float(tensor) if tensor is not None and tensor.numel() == 1 else None


def factors_of(graph: fx.GraphModule, node: Any) -> tuple[list[fx.Node], float]:
    """Return the tensors and the number whose product `node` is."""
    if is_call(node, *MUL):
        left, a = factors_of(graph, node.args[0])
        right, b = factors_of(graph, node.args[1])
        return left + right, a * b
    if is_call(node, *DIV) and len(node.args) == 2 and not node.kwargs:
        below, b = factors_of(graph, node.args[1])
        if not below and b:
            above, a = factors_of(graph, node.args[0])
            return above, a / b
    number = number_of(graph, node)
    return ([], number) if number is not None else ([node], 1.0)


def terms_of(graph: fx.GraphModule, node: Any) -> tuple[list[fx.Node], float] | None:
    """Return the tensors and the number whose sum an addition of two is; None for anything else."""
    if not is_call(node, *ADD) or node.kwargs or len(node.args) != 2:
        return None
    numbers = [number_of(graph, a) for a in node.args]
    tensors = [a for a, number in zip(node.args, numbers, strict=True) if number is None]
    nodes = [tensor for tensor in tensors if isinstance(tensor, fx.Node)]
    return nodes, sum(number for number in numbers if number is not None)


def call(graph: fx.GraphModule, near: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    """Return a new call before `near`."""
    with graph.graph.inserting_before(near):
        return graph.graph.call_function(target, args)
