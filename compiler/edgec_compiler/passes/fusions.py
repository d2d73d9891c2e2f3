"""Rewrites groups of operators into the one that every converter knows.

Each pattern is recognised in any order of its factors and terms:
gelu          x * (1 + erf(x / sqrt 2)) / 2, and x * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2.
hard-sigmoid  min(max(x + 3, 0), 6) / 6, and min(max(x / 6 + 1/2, 0), 1).
hard-swish    x * hard-sigmoid(x).
softmax       exp(x) / sum(exp(x)), with or without the maximum taken off x.
layer-norm    (x - mean) / sqrt(var + eps) over the last axis, times and plus constants.
In int8, the parts that converters write out would stay float, or each would round.
Left alone: other axes of a layer normalisation, and activations with other constants.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import (
    DIV,
    MUL,
    SUB,
    call,
    close,
    factors_of,
    number_of,
    terms_of,
)
from edgec_compiler.passes.graph import held, is_call, replace, shape_of

_A = torch.ops.aten
_POW = (_A.pow.Tensor_Scalar, _A.pow.Tensor_Tensor)
_CLAMPS = (_A.clamp.default, _A.hardtanh.default)
Fused = tuple[Any, tuple[Any, ...]]  # target, arguments
Match = Callable[[fx.GraphModule, Any], Fused | None]


def fuse(graph: fx.GraphModule, match: Match) -> int:
    """Put one call in the place of every match; return how many."""
    found = 0
    for node in reversed(list(graph.graph.nodes)):  # the whole before its parts
        fused = _fusible(graph, node, match)
        if fused is not None:
            replace(node, call(graph, node, *fused))
            graph.graph.eliminate_dead_code()
            found += 1
    return found


def count(graph: fx.GraphModule, match: Match) -> int:
    """Return how many matches there are."""
    return sum(_fusible(graph, node, match) is not None for node in graph.graph.nodes)


def _fusible(graph: fx.GraphModule, node: Any, match: Match) -> Fused | None:
    """Return the match, if there is one that no constant of higher rank gave more axes."""
    fused = match(graph, node) if node.users else None
    return fused if fused is not None and shape_of(fused[1][0]) == shape_of(node) else None


def gelu(graph: fx.GraphModule, node: Any) -> Fused | None:
    """Match x * 0.5 * (1 + erf(x / sqrt 2)) and its tanh form."""
    if not is_call(node, *MUL, *DIV):
        return None
    factors, number = factors_of(graph, node)
    if not close(number, 0.5) or len(factors) != 2:
        return None
    for x, other in (factors, factors[::-1]):
        terms = terms_of(graph, other)
        if terms is None or not close(terms[1], 1) or len(terms[0]) != 1:
            continue
        inner = terms[0][0]
        if is_call(inner, _A.erf.default):
            found, scale = factors_of(graph, inner.args[0])
            if found == [x] and close(scale, math.sqrt(0.5)):
                return _A.gelu.default, (x,)
        if is_call(inner, _A.tanh.default) and _is_tanh_gelu(graph, inner.args[0], x):
            return _A.gelu.default, (x,)  # the keyword is set by fuse_gelu
    return None


def _is_tanh_gelu(graph: fx.GraphModule, node: Any, x: fx.Node) -> bool:
    """Return whether `node` is sqrt(2/pi) (x + 0.044715 x^3)."""
    found, scale = factors_of(graph, node)
    if len(found) != 1 or not close(scale, math.sqrt(2 / math.pi)):
        return False
    terms = terms_of(graph, found[0])
    if terms is None or terms[1] != 0 or x not in terms[0] or len(terms[0]) != 2:
        return False
    cube = terms[0][1 - terms[0].index(x)]
    parts, weight = factors_of(graph, cube)
    cubed = parts == [x] * 3 or (
        len(parts) == 1
        and is_call(parts[0], *_POW)
        and parts[0].args[0] is x
        and number_of(graph, parts[0].args[1]) == 3
    )
    return cubed and close(weight, 0.044715)


def fuse_gelu(graph: fx.GraphModule) -> int:
    """Fuse both forms in place; return how many."""
    found = 0
    for node in reversed(list(graph.graph.nodes)):  # the whole before its parts
        fused = _fusible(graph, node, gelu)
        if fused is not None:
            tanh = _holds_tanh(graph, node)
            new = call(graph, node, *fused)
            new.kwargs = {"approximate": "tanh"} if tanh else {}
            replace(node, new)
            graph.graph.eliminate_dead_code()
            found += 1
    return found


def _holds_tanh(graph: fx.GraphModule, node: Any) -> bool:
    terms = [terms_of(graph, factor) for factor in factors_of(graph, node)[0]]
    return any(is_call(one, _A.tanh.default) for found in terms if found for one in found[0])


def hard_sigmoid(graph: fx.GraphModule, node: Any) -> Fused | None:
    """Match min(max(x + 3, 0), 6) / 6 and min(max(x / 6 + 0.5, 0), 1)."""
    if _limits(graph, node) == (0.0, 1.0):
        terms = terms_of(graph, node.args[0])
        if terms is not None and close(terms[1], 0.5) and len(terms[0]) == 1:
            found, scale = factors_of(graph, terms[0][0])
            if len(found) == 1 and close(scale, 1 / 6):
                return _A.hardsigmoid.default, (found[0],)
        return None
    if not is_call(node, *MUL, *DIV):
        return None
    found, scale = factors_of(graph, node)
    if len(found) == 1 and close(scale, 1 / 6):
        x = _shifted(graph, found[0])
        return None if x is None else (_A.hardsigmoid.default, (x,))
    return None


def hard_swish(graph: fx.GraphModule, node: Any) -> Fused | None:
    """Match x * hard-sigmoid(x), whichever form the second has."""
    if not is_call(node, *MUL, *DIV):
        return None
    factors, number = factors_of(graph, node)
    if len(factors) != 2:
        return None
    for x, other in (factors, factors[::-1]):
        if number == 1 and is_call(other, _A.hardsigmoid.default) and other.args[0] is x:
            return _A.hardswish.default, (x,)
        if close(number, 1 / 6) and _shifted(graph, other) is x:
            return _A.hardswish.default, (x,)
    return None


def _shifted(graph: fx.GraphModule, node: Any) -> fx.Node | None:
    """Return x if `node` is min(max(x + 3, 0), 6)."""
    if not (is_call(node, _A.relu6.default) or _limits(graph, node) == (0.0, 6.0)):
        return None
    terms = terms_of(graph, node.args[0])
    return terms[0][0] if terms and close(terms[1], 3) and len(terms[0]) == 1 else None


def _limits(graph: fx.GraphModule, node: Any) -> tuple[float | None, float | None] | None:
    if not is_call(node, *_CLAMPS) or len(node.args) < 3:
        return None
    return number_of(graph, node.args[1]), number_of(graph, node.args[2])


def softmax(_graph: fx.GraphModule, node: Any) -> Fused | None:
    """Match exp(x) / sum(exp(x)) over one axis, with or without the maximum taken off."""
    if not is_call(node, _A.div.Tensor) or len(node.args) != 2 or node.kwargs:
        return None
    above, below = node.args
    if not is_call(above, _A.exp.default) or not is_call(below, _A.sum.dim_IntList):
        return None
    if below.args[0] is not above or tuple(below.args[2:]) != (True,):
        return None
    if below.kwargs.get("dtype") not in (None, above.meta.get("dtype")):
        return None
    axes = below.args[1]
    if not isinstance(axes, list | tuple) or len(axes) != 1:
        return None
    x: Any = above.args[0]
    if is_call(x, *SUB) and len(x.args) == 2 and not x.kwargs:
        top: Any = x.args[1]
        if is_call(top, _A.amax.default) and top.args == (x.args[0], axes, True):
            x = x.args[0]
    return _A.softmax.int, (x, axes[0])


def layer_norm(graph: fx.GraphModule, node: Any) -> Fused | None:
    """Match (x - mean) / sqrt(var + eps) * weight + bias over the last axis; the last two may lack.

    Source: Ba et al. 2016, arXiv:1607.06450, eq. 3.
    """
    bias, inner = _constant_part(graph, node, (_A.add.Tensor,))
    weight, inner = _constant_part(graph, inner, (_A.mul.Tensor,))
    if weight is None and bias is not None:
        return None
    found = _normalised(graph, inner)
    if found is None:
        return None
    x, eps = found
    shape = shape_of(x)
    if shape is None or any(
        part is not None and shape_of(part) != shape[-1:] for part in (weight, bias)
    ):
        return None
    return _A.layer_norm.default, (x, [shape[-1]], weight, bias, eps)


def _constant_part(
    graph: fx.GraphModule, node: Any, targets: tuple[Any, ...]
) -> tuple[fx.Node | None, Any]:
    """Return the constant operand and the other one, or None and the node itself."""
    if is_call(node, *targets) and len(node.args) == 2 and not node.kwargs:
        for one, other in (node.args, node.args[::-1]):
            if held(graph, one) is not None and number_of(graph, one) is None:
                return one, other
    return None, node


def _normalised(graph: fx.GraphModule, node: Any) -> tuple[fx.Node, float] | None:
    """Return x and eps if `node` is (x - mean) / sqrt(var + eps)."""
    if is_call(node, _A.div.Tensor) and len(node.args) == 2:
        centred, spread = node.args
        root = is_call(spread, _A.sqrt.default)
    elif is_call(node, _A.mul.Tensor):
        centred, spread = node.args
        root = is_call(spread, _A.rsqrt.default)
    else:
        return None
    if not root or not is_call(centred, *SUB) or len(centred.args) != 2:
        return None
    x, mean = centred.args
    terms = terms_of(graph, spread.args[0])
    if not _is_mean(mean, x) or terms is None or len(terms[0]) != 1:
        return None
    variance, eps = terms[0][0], terms[1]
    if not is_call(variance, _A.mean.dim) or not _is_square(graph, variance.args[0], centred):
        return None
    return (x, eps) if _is_mean(variance, variance.args[0]) and eps > 0 else None


def _is_mean(node: Any, of: Any) -> bool:
    """Return whether `node` is the mean of `of` over its last axis, which is kept."""
    shape = shape_of(of)
    if shape is None or not is_call(node, _A.mean.dim) or node.args[0] is not of or node.kwargs:
        return False
    axes = node.args[1]
    last = isinstance(axes, list | tuple) and [a % len(shape) for a in axes] == [len(shape) - 1]
    return last and tuple(node.args[2:3]) == (True,)


def _is_square(graph: fx.GraphModule, node: Any, of: fx.Node) -> bool:
    if is_call(node, *_POW):
        return node.args[0] is of and number_of(graph, node.args[1]) == 2
    return is_call(node, _A.mul.Tensor) and tuple(node.args) == (of, of)
