"""Removes operators that return their input.

Removed: dropout, detach, clone, alias, contiguous, copies to the same dtype, reshapes, views,
expands and slices that keep the shape, permutations in order, assertions of torch.export, times or
through 1, plus or minus 0, a concatenation of one, a reversal of a reversal; and a reshape that
only another one reads.
Left alone: an operator whose input is the graph's own input or constant and whose value is
returned, since an output may not be an input.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import ADD, DIV, MUL, SUB, number_of
from edgec_compiler.passes.graph import is_call, replace, shape_of

_A = torch.ops.aten
_ALWAYS = (
    _A.dropout.default,
    _A.feature_dropout.default,
    _A.alpha_dropout.default,
    _A.detach.default,
    _A.detach_.default,
    _A.clone.default,
    _A.alias.default,
    _A.contiguous.default,
    _A.lift_fresh_copy.default,
)
_SAME_SHAPE = (
    _A.reshape.default,
    _A.expand.default,
    _A.slice.Tensor,
    _A.flatten.using_ints,
)
_SAME_DTYPE = (
    _A.to.dtype,
    _A._to_copy.default,
    _A.to.dtype_layout,
)
_ASSERTIONS = (_A._assert_tensor_metadata.default,)


_NEUTRAL: dict[Any, float] = {
    **dict.fromkeys((*MUL, *DIV), 1.0),
    **dict.fromkeys((*ADD, *SUB), 0.0),
}


def drop(graph: fx.GraphModule) -> int:
    """Remove identities in place, and what then is one; return how many."""
    found = 0
    while dropped := _drop_those_there(graph):
        found += dropped
    return found


def _drop_those_there(graph: fx.GraphModule) -> int:
    found = 0
    for node in list(graph.graph.nodes):
        source = _source(graph, node)
        if source is not None:
            replace(node, source)
            graph.graph.erase_node(node)
            found += 1
        elif _is_reshaped_again(node):
            inner: Any = node.args[0]
            node.args = (inner.args[0], *node.args[1:])
            graph.graph.erase_node(inner)
            found += 1
    assertions = [node for node in graph.graph.nodes if is_call(node, *_ASSERTIONS)]
    for node in assertions:
        graph.graph.erase_node(node)
    return found + len(assertions)


def count(graph: fx.GraphModule) -> int:
    """Return how many identities there are."""
    return sum(
        _source(graph, n) is not None or _is_reshaped_again(n) or is_call(n, *_ASSERTIONS)
        for n in graph.graph.nodes
    )


def _is_reshaped_again(node: fx.Node) -> bool:
    inner = node.args[0] if node.args else None
    return (
        is_call(node, _A.reshape.default)
        and is_call(inner, _A.reshape.default)
        and set(inner.users if isinstance(inner, fx.Node) else ()) == {node}
    )


def _source(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Return what `node` returns unchanged, or None."""
    if node.op != "call_function" or not node.args:
        return None
    first: Any = node.args[0]
    if is_call(node, _A.cat.default) and len(first) == 1:
        return first[0] if _may_stand_in(node, first[0]) else None
    if is_call(node, _A.flip.default) and is_call(first, _A.flip.default):
        x: Any = first.args[0]
        return x if node.args[1] == first.args[1] and _may_stand_in(node, x) else None
    neutral = _NEUTRAL.get(node.target)
    if neutral is not None and len(node.args) == 2 and not node.kwargs:
        pairs = [(first, node.args[1])]
        pairs += [] if is_call(node, *SUB, *DIV) else [(node.args[1], first)]
        for x, other in pairs:
            if number_of(graph, other) == neutral and _may_stand_in(node, x):
                return x if isinstance(x, fx.Node) else None
        return None
    return first if isinstance(first, fx.Node) and _is_identity(node) else None


def _may_stand_in(node: fx.Node, source: Any) -> bool:
    """Return whether `source` has the same shape and type, and may be an output if need be."""
    if not isinstance(source, fx.Node) or shape_of(source) != shape_of(node):
        return False
    returned = any(user.op == "output" for user in node.users)
    alike = shape_of(node) is not None and source.meta.get("dtype") == node.meta.get("dtype")
    return alike and (source.op == "call_function" or not returned)


def _is_identity(node: fx.Node) -> bool:
    source = node.args[0]
    if not isinstance(source, fx.Node) or shape_of(node) is None:
        return False
    returned = any(user.op == "output" for user in node.users)
    if returned and source.op != "call_function":
        return False
    if is_call(node, *_ALWAYS):
        return not (len(node.args) > 2 and node.args[2] is True)  # dropout in training
    same = shape_of(node) == shape_of(source)
    if is_call(node, _A.permute.default):
        order = node.args[1]
        return isinstance(order, list | tuple) and list(order) == sorted(order)
    if is_call(node, *_SAME_SHAPE):
        return same and (not is_call(node, _A.slice.Tensor) or (*node.args, 1)[4:5] in ((), (1,)))
    return is_call(node, *_SAME_DTYPE) and node.meta["dtype"] == source.meta.get("dtype")
