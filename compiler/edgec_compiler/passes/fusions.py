"""Rewrites groups of operators into the one that every converter knows.

fuse-gelu     x * (1 + erf(x / sqrt 2)) / 2, however its factors are ordered, becomes gelu(x): in
              int8, the erf that converters write out would stay float.
mean-to-pool  the mean over the two spatial axes of [N, C, H, W] becomes an average pool: in
              channel-last layout no transpose is then needed.
Left alone: the tanh form of gelu, means over other axes.
"""

import math
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.graph import held, is_call, replace, shape_of

_A = torch.ops.aten
_MUL = (_A.mul.Tensor, _A.mul.Scalar)
_DIV = (_A.div.Tensor, _A.div.Scalar)
_ADD = (_A.add.Tensor, _A.add.Scalar)


def fuse_gelu(graph: fx.GraphModule) -> int:
    """Fuse in place; return how many."""
    found = 0
    for node in list(graph.graph.nodes):
        x = _gelu_input(graph, node)
        if x is not None:
            with graph.graph.inserting_before(node):
                fused = graph.graph.call_function(_A.gelu.default, (x,))
            replace(node, fused)
            graph.graph.eliminate_dead_code()
            found += 1
    return found


def count_gelu(graph: fx.GraphModule) -> int:
    """Return how many such products there are."""
    return sum(_gelu_input(graph, node) is not None for node in graph.graph.nodes)


def _gelu_input(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return x if `node` is x * 0.5 * (1 + erf(x / sqrt 2)), in any order of factors."""
    if not is_call(node, *_MUL, *_DIV) or not node.users:
        return None
    factors, number = _factors(graph, node)
    if not math.isclose(number, 0.5, rel_tol=1e-4) or len(factors) != 2:
        return None
    for x, other in (factors, factors[::-1]):
        if is_call(other, *_ADD):
            terms, one = _terms(graph, other)
            if (
                math.isclose(one, 1, rel_tol=1e-6)
                and len(terms) == 1
                and is_call(terms[0], _A.erf.default)
            ):
                inner, scale = _factors(graph, terms[0].args[0])
                if inner == [x] and math.isclose(scale, math.sqrt(0.5), rel_tol=1e-4):
                    return x
    return None


def _factors(graph: fx.GraphModule, node: Any) -> tuple[list[fx.Node], float]:
    """Return the tensors and the number whose product `node` is."""
    if is_call(node, *_MUL):
        left, a = _factors(graph, node.args[0])
        right, b = _factors(graph, node.args[1])
        return left + right, a * b
    if is_call(node, *_DIV):
        below, b = _factors(graph, node.args[1])
        if not below and b:
            above, a = _factors(graph, node.args[0])
            return above, a / b
    number = _number(graph, node)
    return ([], number) if number is not None else ([node], 1.0)


def _terms(graph: fx.GraphModule, node: fx.Node) -> tuple[list[Any], float]:
    numbers = [_number(graph, a) for a in node.args[:2]]
    tensors = [a for a, number in zip(node.args[:2], numbers, strict=True) if number is None]
    return tensors, sum(number for number in numbers if number is not None)


def _number(graph: fx.GraphModule, value: Any) -> float | None:
    if isinstance(value, int | float):
        return float(value)
    tensor = held(graph, value)
    return float(tensor) if tensor is not None and tensor.numel() == 1 else None


def mean_to_pool(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many means became pools."""
    found = [node for node in graph.graph.nodes if _is_spatial_mean(node)]
    for node in found:
        x: Any = node.args[0]
        keep = len(node.args) > 2 and bool(node.args[2])
        with graph.graph.inserting_before(node):
            pooled = graph.graph.call_function(_A.adaptive_avg_pool2d.default, (x, [1, 1]))
            if not keep:
                shape = shape_of(x)
                assert shape is not None  # noqa: S101  _is_spatial_mean has looked
                pooled = graph.graph.call_function(_A.view.default, (pooled, list(shape[:2])))
        replace(node, pooled)
        graph.graph.erase_node(node)
    return len(found)


def count_mean(graph: fx.GraphModule) -> int:
    """Return how many spatial means there are."""
    return sum(_is_spatial_mean(node) for node in graph.graph.nodes)


def _is_spatial_mean(node: fx.Node) -> bool:
    if not is_call(node, _A.mean.dim) or node.kwargs:
        return False
    shape, axes = shape_of(node.args[0]), _ints(node.args[1])
    return shape is not None and len(shape) == 4 and sorted(a % 4 for a in axes) == [2, 3]


def _ints(values: Any) -> list[int]:
    return [int(value) for value in values] if isinstance(values, list | tuple) else []
