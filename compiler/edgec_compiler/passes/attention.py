"""Attention, written out as the two products and the softmax that it is.

softmax(q k^T s + mask) v: converters write it so, too, but scale queries and keys both, and turn
keys that were turned before. In the graph, the scale folds into the layer that makes the queries,
and the transposes meet.
Left alone: booleans for a mask and the causal one, which `masks` has made numbers where it could.

Source: Vaswani et al. 2017, arXiv:1706.03762, eq. 1.
"""

import math
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import is_call, replace, shape_of

_A = torch.ops.aten
_ATTENTION = _A.scaled_dot_product_attention.default
_BATCHED = 4  # axes of attention with a batch
_DEFAULTS = (None, 0.0, False)  # mask, dropout, causal


def write_out(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many there were."""
    found = [node for node in graph.graph.nodes if _is_plain(node)]
    for node in found:
        _write(graph, node)
        graph.graph.erase_node(node)  # torch takes it for random, and would keep it
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many could be written out."""
    return sum(_is_plain(node) for node in graph.graph.nodes)


def _chosen(node: fx.Node) -> tuple[Any, Any, Any]:
    """Return mask, dropout and whether it is causal."""
    given = (*node.args[3:], *_DEFAULTS[len(node.args) - 3 :])
    names = ("attn_mask", "dropout_p", "is_causal")
    mask, dropout, causal = (
        node.kwargs.get(name, one) for name, one in zip(names, given, strict=True)
    )
    return mask, dropout, causal


def _is_plain(node: Any) -> bool:
    if not is_call(node, _ATTENTION) or node.kwargs.get("enable_gqa"):
        return False
    mask, dropout, causal = _chosen(node)
    numbers = mask is None or getattr(mask.meta.get("dtype"), "is_floating_point", False)
    return bool(numbers and not causal and not dropout and shape_of(node.args[0]))


def _write(graph: fx.GraphModule, node: fx.Node) -> None:
    def make(target: Any, args: tuple[Any, ...], size: tuple[int, ...]) -> fx.Node:
        new = call(graph, node, target, args)
        new.meta |= {"shape": size, "dtype": node.meta["dtype"]}
        return new

    def flat(value: Any) -> Any:
        """Leave out a batch of 1: TFLite multiplies three axes, and reshapes for any more."""
        shape = shape_of(value) or ()
        single = len(shape) == _BATCHED and shape[0] == 1
        return make(_A.reshape.default, (value, [*shape[1:]]), shape[1:]) if single else value

    mask, shape = _chosen(node)[0], shape_of(node)
    alone = shape is not None and all(
        (shape_of(one) or ())[:-2] == shape[:-2] for one in node.args[:3]
    )
    q, k, v = (flat(one) if alone else one for one in node.args[:3])
    given, kept = shape_of(q), shape_of(k)
    assert given and kept and shape  # noqa: S101, PT018  every value was observed
    chosen = node.kwargs.get("scale")
    scale = float(str(chosen)) if chosen is not None else 1 / math.sqrt(given[-1])
    order = [*range(len(kept) - 2), len(kept) - 1, len(kept) - 2]
    turned = make(_A.permute.default, (k, order), tuple(kept[axis] for axis in order))
    scores = (*(given if alone else shape)[:-1], kept[-2])
    made = make(_A.matmul.default, (make(_A.mul.Tensor, (q, scale), given), turned), scores)
    if mask is not None:
        made = make(_A.add.Tensor, (made, flat(mask) if alone else mask), scores)
    made = make(_A.softmax.int, (made, -1), scores)
    made = make(_A.matmul.default, (made, v), (*scores[:-1], shape[-1]))
    replace(node, make(_A.reshape.default, (made, list(shape)), shape))
