"""Merges transposes, and moves them behind elementwise operators so that they meet and cancel.

Merged: permute after permute; what remains in order is an identity. `transpose` and `t` count, too.
A transpose that moves axes of 1 only becomes a reshape, but for those between NCHW and NHWC, which
the conversion to channel-last layout takes away by itself.
Moved behind: operators of one value, and of two where the other is a number, a constant, or in the
same order itself; concatenations of values all in one order; and what works along axes, as `along`
says. One to NCHW goes before a padding, so that the convolution behind it can take that up.
Left alone: a transpose that something else reads, too (moving it would make a second one).
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.along import TO_FIRST, Along, in_front, turned_pads
from edgec_compiler.passes.arithmetic import ADD, DIV, MUL, SUB, call
from edgec_compiler.passes.graph import held, hold, is_call, replace, shape_of

_A = torch.ops.aten
UNARY = (
    _A.relu.default,
    _A.relu6.default,
    _A.sigmoid.default,
    _A.tanh.default,
    _A.hardsigmoid.default,
    _A.hardswish.default,
    _A.silu.default,
    _A.gelu.default,
    _A.elu.default,
    _A.leaky_relu.default,
    _A.clamp.default,
    _A.hardtanh.default,
    _A.exp.default,
    _A.abs.default,
    _A.neg.default,
    _A.sqrt.default,
    _A.rsqrt.default,
    _A.erf.default,
    _A.dropout.default,
)
_LAST_TWO = (_A.mT.default, _A.t.default)
_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
BINARY = (*MUL, *ADD, *SUB, *DIV, _A.maximum.default, _A.minimum.default)


def merge(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many steps it took."""
    steps = 0
    while True:
        node = next((n for n in graph.graph.nodes if _step(graph, n)), None)
        if node is None:
            return steps
        _take(graph, node)
        graph.graph.eliminate_dead_code()
        steps += 1


def count(graph: fx.GraphModule) -> int:
    """Return how many transposes could still be merged or moved."""
    return sum(_step(graph, node) for node in graph.graph.nodes)


def order_of(node: Any) -> list[int] | None:
    """Return the order of a permute's or transpose's axes, all counted from 0."""
    shape = shape_of(node)
    if shape is None or not is_call(node, _A.permute.default, _A.transpose.int, *_LAST_TWO):
        return None
    if is_call(node, _A.permute.default):
        axes: Any = node.args[1]
        return [int(axis) % len(shape) for axis in axes]
    order = [*range(len(shape))]
    swapped = (-2, -1) if is_call(node, *_LAST_TWO) else node.args[1:3]
    one, other = (int(axis) % len(shape) for axis in swapped)
    order[one], order[other] = order[other], order[one]
    return order


def channel_last_ends(graph: fx.GraphModule) -> tuple[frozenset[int], frozenset[int]]:
    """Return which inputs the graph turns to NCHW before all else, and which outputs to NHWC last.

    Shapes are those that `observe` noted. Decided by what is done with a value, never by its sizes.
    """
    ends = [node for node in graph.graph.nodes if node.op == "placeholder"]
    inputs = frozenset(i for i, node in enumerate(ends) if _is_turned(node))
    (last,) = (node for node in graph.graph.nodes if node.op == "output")
    made: Any = last.args[0]
    results = made if isinstance(made, tuple | list) else (made,)
    outputs = frozenset(i for i, node in enumerate(results) if order_of(node) == _TO_NHWC)
    return inputs, outputs


def _is_turned(node: fx.Node) -> bool:
    """Return whether every reader turns the value to NCHW, or does something elementwise first."""
    return bool(node.users) and all(
        order_of(user) == _TO_NCHW
        or (is_call(user, *UNARY, *BINARY) and user.op != "output" and _is_turned(user))
        for user in node.users
    )


def _step(graph: fx.GraphModule, node: Any) -> bool:
    if not node.users:
        return False
    order = order_of(node)
    if order is not None:
        inner = order_of(node.args[0]) is not None
        return inner or _is_reshape(node) or _pads_before(node, order) is not None
    return _along(node) is not None or _common_order(graph, node) is not None


def _along(node: Any) -> Along | None:
    """Return what an operator is in front of the transpose that it alone reads."""
    turned: Any = node.args[0] if node.args else None
    order = order_of(turned)
    if order is None or set(turned.users) != {node}:
        return None
    return in_front(node, order)


def _pads_before(node: Any, order: list[int]) -> list[int] | None:
    """Return the pads that a padding has behind a transpose to NCHW, before which it lies."""
    return turned_pads(node.args[0], order) if order in TO_FIRST else None


def _is_reshape(node: Any) -> bool:
    order, shape = order_of(node), shape_of(node.args[0])
    if order is None or shape is None or order in (_TO_NCHW, _TO_NHWC):
        return False
    moved = [axis for axis in order if shape[axis] != 1]
    return moved == sorted(moved)


def _take(graph: fx.GraphModule, node: Any) -> None:
    outer = order_of(node)
    if outer is not None and _is_reshape(node):
        replace(
            node, call(graph, node, _A.reshape.default, (node.args[0], list(node.meta["shape"])))
        )
        return
    pads = None if outer is None else _pads_before(node, outer)
    if outer is not None and pads is not None:
        padding: Any = node.args[0]
        turned = call(graph, node, _A.permute.default, (padding.args[0], outer))
        turned.meta["shape"] = tuple((shape_of(padding.args[0]) or ())[axis] for axis in outer)
        turned.meta["dtype"] = node.meta.get("dtype")
        new = call(graph, node, padding.target, (turned, pads, *padding.args[2:]))
        new.kwargs = padding.kwargs
        replace(node, new)
        return
    if outer is not None:
        inner_node: Any = node.args[0]
        inner = order_of(inner_node)
        assert inner is not None  # noqa: S101  _step has looked
        merged = [inner[axis] for axis in outer]
        source = inner_node.args[0]
        if merged == sorted(merged) and not _is_end(node, source):
            replace(node, source)
        else:
            new = call(graph, node, _A.permute.default, (source, merged))
            replace(node, new)
        return
    along = _along(node)
    if along is not None:
        _move_along(graph, node, along)
        return
    order = _common_order(graph, node)
    assert order is not None  # noqa: S101  _step has looked
    _move(graph, node, order)


def _move_along(graph: fx.GraphModule, node: Any, along: Along) -> None:
    source, order = node.args[0].args[0], along.order
    new = call(graph, node, node.target, (source, *along.args))
    new.kwargs = node.kwargs
    shape = shape_of(node)
    assert shape is not None  # noqa: S101  every value was observed
    new.meta |= {"shape": tuple(shape[order.index(axis)] for axis in range(len(order)))}
    new.meta["dtype"] = node.meta.get("dtype")
    behind = order == sorted(order)
    replace(node, new if behind else call(graph, node, _A.permute.default, (new, order)))


def _is_end(node: Any, source: Any) -> bool:
    """Return whether an output would become one of the graph's own inputs or constants."""
    returned = any(user.op == "output" for user in node.users)
    return returned and not is_call(source, source.target)


def _operands(node: Any) -> list[Any]:
    if is_call(node, _A.cat.default):
        parts: Any = node.args[0]
        return [*parts]
    return [*node.args[: 2 if is_call(node, *BINARY) else 1]]


def _common_order(graph: fx.GraphModule, node: Any) -> list[int] | None:
    """Return the order that all of an elementwise operator's values are in, if it can be moved."""
    if not is_call(node, *UNARY, *BINARY, _A.cat.default) or shape_of(node) is None:
        return None
    operands = _operands(node)
    moved = [one for one in operands if order_of(one) is not None]
    orders = {tuple(order_of(one) or ()) for one in moved}
    if len(orders) != 1 or any(set(one.users) != {node} for one in moved):
        return None
    rest = [one for one in operands if order_of(one) is None]
    fixed = all(isinstance(one, int | float) or held(graph, one) is not None for one in rest)
    order = list(orders.pop())
    same = len(shape_of(node) or ()) == len(order)
    return order if fixed and same and not (rest and _is_cat(node)) else None


def _is_cat(node: Any) -> bool:
    return is_call(node, _A.cat.default)


def _move(graph: fx.GraphModule, node: Any, order: list[int]) -> None:
    back = [order.index(axis) for axis in range(len(order))]

    def source(operand: Any) -> Any:
        if order_of(operand) is not None:
            return operand.args[0]
        tensor = held(graph, operand)
        if tensor is None or tensor.dim() == 0:
            return operand
        full = tensor.reshape((1,) * (len(order) - tensor.dim()) + tuple(tensor.shape))
        return hold(graph, full.permute(back).contiguous(), node)

    args = [source(operand) for operand in _operands(node)]
    shape = shape_of(node)
    assert shape is not None  # noqa: S101  _common_order has looked
    if _is_cat(node):
        axis = int(str(node.args[1])) if len(node.args) > 1 else 0
        new = call(graph, node, node.target, (args, order[axis % len(order)]))
    else:
        new = call(graph, node, node.target, (*args, *node.args[len(args) :]))
        new.kwargs = node.kwargs
    new.meta["shape"] = tuple(shape[axis] for axis in back)
    new.meta["dtype"] = node.meta.get("dtype")
    replace(node, call(graph, node, _A.permute.default, (new, order)))
