"""Activation functions, as forms that integer kernels compute without loss. For TFLite.

Converters write these out with an exponential of the whole range, which in 8 bits leaves next to
nothing of the rest.

elu, selu    relu(x) + a * (exp(min(x, 0)) - 1); with an a of 1 the form of celu, which
             `convert/fused.py` makes the one operator ELU.
softplus     relu(x) - log(sigmoid(|x|)), its logarithm written out or not.
log-sigmoid  -softplus(-x).
mish         x * (1 - w) / (1 + w) with w = sigmoid(-x)^2, as tanh(softplus(x)) is
             ((1 + e^x)^2 - 1) / ((1 + e^x)^2 + 1) and sigmoid(-x) is 1 / (1 + e^x).
x / sqrt(y)  becomes x * rsqrt(y), also where the root is shaped otherwise in between.
norm         x / max(|x|, eps) over one axis, |x| written out or not, becomes
             x * rsqrt(max(sum(x^2), eps^2)).
Left alone: what is not a float, softplus with another beta than 1, norms of another order than 2.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import ADD, DIV, MUL, call, number_of
from edgec_compiler.passes.graph import is_call, replace, shape_of

_A = torch.ops.aten
_SELU = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. 2017, arXiv:1706.02515
_SHAPING = (
    _A.reshape.default,
    _A.squeeze.dim,
    _A.squeeze.dims,
    _A.unsqueeze.default,
    _A.expand.default,
    _A.permute.default,
)
_NORMS = (_A.linalg_vector_norm.default, _A.norm.ScalarOpt_dim)
_Write = Callable[[fx.GraphModule, fx.Node], fx.Node]


def write(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many."""
    found = 0
    for node in list(graph.graph.nodes):
        way = _way(graph, node)
        if way is not None:
            replace(node, way(graph, node))
            found += 1
    graph.graph.eliminate_dead_code()
    return found


def count(graph: fx.GraphModule) -> int:
    """Return how many there are."""
    return sum(_way(graph, node) is not None for node in graph.graph.nodes)


def _way(graph: fx.GraphModule, node: Any) -> _Write | None:
    """Return how to write `node`, None if it stays."""
    if not (isinstance(node, fx.Node) and node.users and node.op == "call_function"):
        return None
    if not getattr(node.meta.get("dtype"), "is_floating_point", False):
        return None
    if _mish_input(graph, node) is not None:
        return _mish
    if _softplus_input(graph, node) is not None:
        return _softplus
    if is_call(node, _A.elu.default, _A.selu.default) or _is_scaled_celu(node):
        return _elu
    if is_call(node, _A.log_sigmoid.default):
        return _log_sigmoid
    if is_call(node, _A.div.Tensor) and not node.kwargs:
        if _norm(graph, node) is not None:
            return _normalised
        if _root(node.args[1]) is not None:
            return _over_root
    if is_call(node, _A.reciprocal.default) and _root(node.args[0]) is not None:
        return _over_root
    return None


def _celu(graph: fx.GraphModule, near: fx.Node, x: Any) -> fx.Node:
    return call(graph, near, _A.celu.default, (x,))


def _is_scaled_celu(node: Any) -> bool:
    return is_call(node, _A.celu.default) and _argument(node, 1, "alpha", 1.0) != 1


def _argument(node: fx.Node, place: int, name: str, default: float) -> float:
    value: Any = node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
    return float(value)


def _elu(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    x: Any = node.args[0]
    alpha, scale = _SELU if is_call(node, _A.selu.default) else (1.0, 1.0)
    inner = 1.0
    if is_call(node, _A.celu.default):
        alpha = _argument(node, 1, "alpha", 1)
        inner = 1 / alpha
    elif is_call(node, _A.elu.default):
        alpha = _argument(node, 1, "alpha", 1)
        scale = _argument(node, 2, "scale", 1)
        inner = _argument(node, 3, "input_scale", 1)
    if (alpha, scale, inner) == (1.0, 1.0, 1.0):
        return _celu(graph, node, x)
    above = call(graph, node, _A.relu.default, (x,))
    below = call(graph, node, _A.relu.default, (call(graph, node, _A.mul.Tensor, (x, -inner)),))
    bent = _celu(graph, node, call(graph, node, _A.mul.Tensor, (below, -1.0)))
    if scale != 1:
        above = call(graph, node, _A.mul.Tensor, (above, scale))
    bent = call(graph, node, _A.mul.Tensor, (bent, alpha * scale))
    return call(graph, node, _A.add.Tensor, (above, bent))


def _softplus_input(graph: fx.GraphModule, node: Any) -> Any:
    """Return x if `node` is softplus(x), or log(1 + exp(x)) written out."""
    if is_call(node, _A.softplus.default):
        return node.args[0] if _argument(node, 1, "beta", 1) == 1 else None
    inner: Any = None
    if is_call(node, _A.log1p.default):
        inner = node.args[0]
    elif is_call(node, _A.log.default):
        inner = _plus_one(graph, node.args[0])
    return inner.args[0] if is_call(inner, _A.exp.default) else None


def _plus_one(graph: fx.GraphModule, node: Any) -> Any:
    """Return y if `node` is y + 1."""
    if not is_call(node, *ADD) or node.kwargs or len(node.args) != 2:
        return None
    for one, other in (node.args, node.args[::-1]):
        if number_of(graph, other) == 1:
            return one
    return None


def _write_softplus(graph: fx.GraphModule, near: fx.Node, x: Any) -> fx.Node:
    size = call(graph, near, _A.abs.default, (x,))
    rest = call(graph, near, _A.log.default, (call(graph, near, _A.sigmoid.default, (size,)),))
    return call(graph, near, _A.sub.Tensor, (call(graph, near, _A.relu.default, (x,)), rest))


def _softplus(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    return _write_softplus(graph, node, _softplus_input(graph, node))


def _log_sigmoid(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    turned = call(graph, node, _A.mul.Tensor, (node.args[0], -1.0))
    return call(graph, node, _A.mul.Tensor, (_write_softplus(graph, node, turned), -1.0))


def _mish_input(graph: fx.GraphModule, node: Any) -> Any:
    """Return x if `node` is mish(x), or x * tanh(softplus(x)) written out."""
    if is_call(node, _A.mish.default):
        return node.args[0]
    if not is_call(node, *MUL) or len(node.args) != 2:
        return None
    for x, other in (node.args, node.args[::-1]):
        if is_call(other, _A.tanh.default) and _softplus_input(graph, other.args[0]) is x:
            return x
    return None


def _mish(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    x = _mish_input(graph, node)
    turned = call(graph, node, _A.mul.Tensor, (x, -1.0))
    gate = call(graph, node, _A.sigmoid.default, (turned,))
    w = call(graph, node, _A.mul.Tensor, (gate, gate))
    above = call(graph, node, _A.add.Tensor, (call(graph, node, _A.mul.Tensor, (w, -1.0)), 1.0))
    below = call(graph, node, _A.add.Tensor, (w, 1.0))
    return call(graph, node, _A.mul.Tensor, (x, call(graph, node, DIV[0], (above, below))))


def _root(node: Any) -> fx.Node | None:
    """Return the square root that `node` is, but for its shape."""
    while is_call(node, *_SHAPING):
        node = node.args[0]
    return node if is_call(node, _A.sqrt.default) else None


def _over_root(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    below: Any = node.args[-1]
    root = _root(below)
    assert root is not None  # noqa: S101  _way has looked
    inverse = call(graph, node, _A.rsqrt.default, (root.args[0],))
    shapes = []
    while below is not root:
        shapes.append(below)
        below = below.args[0]
    for one in reversed(shapes):
        inverse = call(graph, node, one.target, (inverse, *one.args[1:]))
    if is_call(node, _A.reciprocal.default):
        return inverse
    return call(graph, node, _A.mul.Tensor, (node.args[0], inverse))


def _norm(graph: fx.GraphModule, node: Any) -> tuple[Any, int, float] | None:
    """Return x, the axis and eps if `node` is x / max(|x|, eps) over one axis."""
    x, below = node.args
    while is_call(below, _A.expand.default, _A.expand_as.default):
        below = below.args[0]
    eps: float | None = 0.0
    if is_call(below, _A.clamp_min.default, _A.clamp.default, _A.maximum.default):
        if len(below.args) != 2:
            return None
        below, eps = below.args[0], number_of(graph, below.args[1])
    axis = _norm_axis(graph, below, x)
    return None if axis is None or eps is None or eps < 0 else (x, axis, eps)


def _norm_axis(graph: fx.GraphModule, node: Any, x: Any) -> int | None:
    """Return the axis if `node` is |x| over one axis, which is kept, or its square's root."""
    shape = shape_of(x)
    if shape is None:
        return None
    given: tuple[Any, ...] = ()
    if is_call(node, *_NORMS) and not node.kwargs and len(node.args) == 4:
        given = node.args if node.args[1] in (2, 2.0) else ()
        given = (*given[:1], *given[2:])
    elif is_call(node, _A.sqrt.default) and is_call(node.args[0], _A.sum.dim_IntList):
        total: Any = node.args[0]
        given = (_squared(graph, total.args[0]), *total.args[1:])
    if len(given) != 3 or given[0] is not x or given[2] is not True:
        return None
    axes = [given[1]] if isinstance(given[1], int) else list(given[1] or ())
    return axes[0] % len(shape) if len(axes) == 1 else None


def _squared(graph: fx.GraphModule, node: Any) -> Any:
    """Return y if `node` is y * y or y to the power of 2."""
    if is_call(node, _A.pow.Tensor_Scalar, _A.pow.Tensor_Tensor):
        return node.args[0] if number_of(graph, node.args[1]) == 2 else None
    same = is_call(node, _A.mul.Tensor) and node.args[0] is node.args[1]
    return node.args[0] if same else None


def _normalised(graph: fx.GraphModule, node: fx.Node) -> fx.Node:
    found = _norm(graph, node)
    assert found is not None  # noqa: S101  _way has looked
    x, axis, eps = found
    square = call(graph, node, _A.mul.Tensor, (x, x))
    total = call(graph, node, _A.sum.dim_IntList, (square, [axis], True))
    least = max(eps**2, 1e-24)
    limited = call(graph, node, _A.clamp.default, (total, least))
    inverse = call(graph, node, _A.rsqrt.default, (limited,))
    return call(graph, node, _A.mul.Tensor, (x, inverse))
