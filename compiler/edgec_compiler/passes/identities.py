"""Removes operators that return their input.

Removed: dropout, detach, clone, alias, contiguous, copies to the same dtype, reshapes, views,
expands and slices that keep the shape, permutations in order, assertions of torch.export.
Left alone: an operator whose input is the graph's own input or constant and whose value is
returned, since an output may not be an input.
"""

import torch
from torch import fx

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
    _A.view.default,
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


def drop(graph: fx.GraphModule) -> int:
    """Remove identities in place; return how many."""
    found = [node for node in graph.graph.nodes if _is_identity(node)]
    for node in found:
        replace(node, node.args[0])
        graph.graph.erase_node(node)
    assertions = [node for node in graph.graph.nodes if is_call(node, *_ASSERTIONS)]
    for node in assertions:
        graph.graph.erase_node(node)
    return len(found) + len(assertions)


def count(graph: fx.GraphModule) -> int:
    """Return how many identities there are."""
    return sum(_is_identity(n) or is_call(n, *_ASSERTIONS) for n in graph.graph.nodes)


def _is_identity(node: fx.Node) -> bool:
    source = node.args[0] if node.op == "call_function" and node.args else None
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
