"""Products with a constant matrix, said as the linear layers that they are.

matmul  x @ w, w [in, out], as Keras's dense layers and MatMul nodes are written.
einsum  over the last axes of x and the first of w ("abc,cde->abde"), as in Keras's attention: a
        linear layer between reshapes, with the constant that is added behind it as its bias.

Scales and batch norms then fold into them, and quantisers see layers.
Left alone: products of two values, constants with a batch, and sums over other axes.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import ADD, call
from edgec_compiler.passes.graph import held, hold, is_call, replace, shape_of

_A = torch.ops.aten
_MATRIX = 2  # the rank of what every row is multiplied with


@dataclass(frozen=True, slots=True)
class _Product:
    """Rows of x times a matrix [in, out], a constant's. `summed` counts x's last axes in a row."""

    x: fx.Node
    rows: tuple[int, ...]
    summed: int
    matrix: torch.Tensor
    constant: str


def as_layers(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many products became layers."""
    found = [(n, product) for n in graph.graph.nodes if (product := _product(graph, n))]
    weights: dict[tuple[str, int], str] = {}  # one for all steps of a layer that is unrolled
    for node, product in found:
        known = weights.get((product.constant, product.summed))
        with graph.graph.inserting_before(node):
            weight = None if known is None else graph.graph.get_attr(known)
        weight = hold(graph, product.matrix.t(), node) if weight is None else weight
        weights[product.constant, product.summed] = str(weight.target)
        _write(graph, node, product, weight)
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many products could be layers."""
    return sum(_product(graph, node) is not None for node in graph.graph.nodes)


def _product(graph: fx.GraphModule, node: Any) -> _Product | None:
    if is_call(node, _A.matmul.default, _A.mm.default):
        (x, weight), summed = node.args, 1
        if len(shape_of(weight) or ()) != _MATRIX:
            return None
    elif is_call(node, _A.einsum.default) and (found := _contraction(node)):
        x, weight, summed = found
    else:
        return None
    shape, constant = shape_of(x), held(graph, weight)
    if constant is None or not constant.is_floating_point() or held(graph, x) is not None:
        return None
    if not shape or not node.users:
        return None
    matrix = constant.reshape(prod(shape[-summed:]), -1)
    return _Product(x, shape[:-summed], summed, matrix, str(weight.target))


def _contraction(node: Any) -> tuple[Any, Any, int] | None:
    """Return x, w and how many axes an einsum sums over, if they are x's last and w's first."""
    operands = node.args[1]
    given, _, result = str(node.args[0]).replace(" ", "").partition("->")
    left, _, right = given.partition(",")
    summed = next((n for n in range(len(left), 0, -1) if right.startswith(left[-n:])), 0)
    rows, made = left[: len(left) - summed], right[summed:]
    distinct = len({*rows, *right}) == len(rows) + len(right) and "." not in given
    fits = summed and made and distinct and result == rows + made
    return (*operands, summed) if fits and len(operands) == 2 else None


def _write(graph: fx.GraphModule, node: fx.Node, product: _Product, weight: fx.Node) -> None:
    made = shape_of(node)
    assert made is not None  # noqa: S101  every value was observed
    x = product.x
    wide, out = product.matrix.shape
    if product.summed > 1:
        x = call(graph, node, _A.reshape.default, (x, [*product.rows, wide]))
    flat = made == (*product.rows, out)
    adding = None if flat else _added(graph, node, made[len(product.rows) :])
    bias = None if adding is None else hold(graph, adding[1].reshape(-1), node)
    layer = call(graph, node, _A.linear.default, (x, weight, bias))
    layer.meta |= {"shape": (*product.rows, out), "dtype": node.meta["dtype"]}
    if not flat:
        layer = call(graph, node, _A.reshape.default, (layer, list(made)))
    replace(node if adding is None else adding[0], layer)


def _added(
    graph: fx.GraphModule, node: fx.Node, shape: tuple[int, ...]
) -> tuple[fx.Node, torch.Tensor] | None:
    """Return what adds a constant of this shape to `node`, if it alone reads that; the constant."""
    (reader, *others) = node.users
    if others or not is_call(reader, *ADD) or reader.kwargs or shape_of(reader) != shape_of(node):
        return None
    for x, other in (reader.args, reader.args[::-1]):
        constant = held(graph, other)
        if x is node and constant is not None and constant.numel() == prod(shape):
            return (reader, constant) if tuple(constant.shape[-len(shape) :]) == shape else None
    return None
