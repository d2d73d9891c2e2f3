"""Bounds what attention masks add: minus infinity, or as good as that, has no place in integers.

A softmax gives nothing to what lies far below the largest, however far. Rewritten, wherever a value
leads to softmaxes only: constants, fillings and factors below -BOUND become -BOUND; a mask of
booleans, and the causal one, that attention is given become constants of 0 and -BOUND.
Left alone: what anything else reads, too.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import ADD, MUL, call
from edgec_compiler.passes.graph import held, hold, is_call, replace, shape_of

_A = torch.ops.aten
BOUND = 1000.0  # exp(-900) is zero in float32, and 1000 is finite in 16 bits
_ATTENTION = _A.scaled_dot_product_attention.default
_SOFTMAX = (_A.softmax.int, _A._softmax.default)
_FILLED = (_A.masked_fill.Scalar, _A.masked_fill.Tensor)
_WHERE = (_A.where.self, _A.where.ScalarOther, _A.where.ScalarSelf)
_MOVING = (
    *(_A.reshape.default, _A.expand.default, _A.unsqueeze.default, _A.squeeze.dim),
    *(_A.slice.Tensor, _A.permute.default, _A.transpose.int, _A.to.dtype, _A._to_copy.default),
)


def bound(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many values were bounded."""
    found = 0
    for node in list(graph.graph.nodes):
        if is_call(node, _ATTENTION):
            found += _bound_attention(graph, node)
    masks = _masks(graph)
    for node in [one for one in graph.graph.nodes if one in masks]:
        value = held(graph, node)
        if value is not None and _is_low(value):
            first = next(iter(node.users))
            replace(node, hold(graph, value.clamp(min=-BOUND), first))
            found += 1
        for place, argument in enumerate(node.args if _takes_number(node) else ()):
            if isinstance(argument, int | float) and argument < -BOUND:
                node.update_arg(place, -BOUND)
                found += 1
    return found


def count(graph: fx.GraphModule) -> int:
    """Return how many values there are to bound."""
    masks = _masks(graph)
    found = sum(
        _given(node)[1] or _is_bool(_given(node)[0])
        for node in graph.graph.nodes
        if is_call(node, _ATTENTION)
    )
    for node in masks:
        value = held(graph, node)
        found += value is not None and _is_low(value)
        if _takes_number(node):
            found += sum(isinstance(a, int | float) and a < -BOUND for a in node.args)
    return found


def _is_low(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.numel() > 0 and float(value.min()) < -BOUND


def _takes_number(node: fx.Node) -> bool:
    return is_call(node, *ADD, *MUL, *_FILLED, *_WHERE)


def _masks(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes whose values lead to softmaxes only."""
    found: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        if node.users and all(_leads(node, user, found) for user in node.users):
            found.add(node)
    return found


def _leads(node: fx.Node, user: fx.Node, found: set[fx.Node]) -> bool:
    places = [place for place, argument in enumerate(user.args) if argument is node]
    if is_call(user, *_SOFTMAX):
        return places == [0]
    if is_call(user, _ATTENTION):
        return places in ([], [3]) and _given(user)[0] is node
    if user not in found:
        return False
    if is_call(user, *_FILLED):
        return 1 not in places
    if is_call(user, *_WHERE):
        return 0 not in places
    return is_call(user, *ADD, *MUL, *_MOVING)


def _given(node: fx.Node) -> tuple[Any, bool]:
    """Return the mask that attention is given, and whether it is causal."""
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return given.get("attn_mask"), given.get("is_causal") is True


def _is_bool(mask: Any) -> bool:
    return isinstance(mask, fx.Node) and mask.meta.get("dtype") == torch.bool


def _bound_attention(graph: fx.GraphModule, node: fx.Node) -> int:
    """Give attention a mask of floats in place of a causal one or one of booleans."""
    mask, causal = _given(node)
    if not causal and not _is_bool(mask):
        return 0
    rows, columns = (shape_of(node.args[0]) or ())[-2], (shape_of(node.args[1]) or ())[-2]
    if causal:
        seen = torch.ones(rows, columns, dtype=torch.bool).tril()
        made = hold(graph, torch.zeros(rows, columns).masked_fill(~seen, -BOUND), node)
    else:
        constant = held(graph, mask)
        if constant is None:
            ends = hold(graph, torch.zeros(()), node), hold(graph, torch.full((), -BOUND), node)
            made = call(graph, node, _A.where.self, (mask, *ends))
        else:
            made = hold(graph, torch.zeros(constant.shape).masked_fill(~constant, -BOUND), node)
    kept = {k: v for k, v in node.kwargs.items() if k not in ("attn_mask", "is_causal")}
    node.args = (*node.args[:3], made)
    node.kwargs = kept
    return 1
