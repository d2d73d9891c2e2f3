"""The operators that `tracing` understands, as one table; and those with weights.

A rule notes cuts of the weights, and returns the atoms along the axes of the operator's result.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from edgec_compiler.compress import tracing
from edgec_compiler.compress.reshaping import Axes
from edgec_compiler.compress.tracing import Rule, Trace, keep, said
from edgec_compiler.passes.graph import shape_of

_A = torch.ops.aten
CONVOLUTIONS = (_A.conv1d.default, _A.conv2d.default, _A.conv3d.default)
TRANSPOSED = (
    _A.conv_transpose1d.default,
    _A.conv_transpose2d.input,
    _A.conv_transpose3d.input,
)
LINEAR = (_A.linear.default,)
PRODUCTS = (_A.matmul.default, _A.mm.default, _A.bmm.default)


def groups_of(node: fx.Node) -> int:
    """Return the groups of a convolution."""
    given: Any = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return int(given)


def _argument(node: fx.Node, place: int) -> Any:
    return node.args[place] if len(node.args) > place else None


def _conv(trace: Trace, node: fx.Node) -> Axes:
    """Convolution: outputs are new, tied to inputs where depthwise, over groups where grouped."""
    value, kernel, bias = node.args[0], node.args[1], _argument(node, 2)
    weight, shape = trace.weight(kernel), shape_of(node) or ()
    axis = len(shape) - (weight.dim() - 2) - 1 if weight is not None else 0
    axes = trace.of_value(value, node)
    if weight is None or (bias is not None and trace.weight(bias) is None):
        return keep(trace, node)
    trace.hold({a: ids for a, ids in axes.items() if a != axis}, node)
    ids, groups, inner = axes.get(axis), groups_of(node), weight.shape[1]
    if groups == 1:
        trace.cut(node, kernel, 1, ids)
        made = trace.atoms.fresh(weight.shape[0])
    elif ids is None:
        return keep(trace, node)
    elif inner == 1:
        made = np.repeat(ids, weight.shape[0] // groups)
    else:
        rows = ids.reshape(groups, inner)
        made = trace.atoms.fresh(weight.shape[0])
        outs = made.reshape(groups, -1)
        for group in range(1, groups):
            trace.atoms.tie(rows[0], rows[group])
            trace.atoms.tie(outs[0], outs[group])
        trace.cut(node, kernel, 1, rows[0])
    trace.cut(node, kernel, 0, made)
    trace.cut(node, bias, 0, made)
    return {axis: made}


def _transposed(trace: Trace, node: fx.Node) -> Axes:
    """Transposed convolution: its weight is [in, out, ...]; grouped ones keep their channels."""
    kernel, bias = node.args[1], _argument(node, 2)
    weight, shape = trace.weight(kernel), shape_of(node) or ()
    if weight is None or groups_of(node) != 1 or (bias and trace.weight(bias) is None):
        return keep(trace, node)
    axis = len(shape) - (weight.dim() - 2) - 1
    axes = trace.of_value(node.args[0], node)
    trace.hold({a: ids for a, ids in axes.items() if a != axis}, node)
    trace.cut(node, kernel, 0, axes.get(axis))
    made = trace.atoms.fresh(weight.shape[1])
    trace.cut(node, kernel, 1, made)
    trace.cut(node, bias, 0, made)
    return {axis: made}


def _dense(
    trace: Trace, node: fx.Node, value: Any, kernel: Any, bias: Any, transposed: bool
) -> Axes:
    """Product with a constant matrix, [out, in] or `transposed` [in, out]."""
    weight = trace.weight(kernel)
    if weight is None or weight.dim() != 2 or (bias is not None and trace.weight(bias) is None):
        return keep(trace, node)
    inputs, outputs = (0, 1) if transposed else (1, 0)
    last = len(shape_of(value) or ()) - 1
    axes = dict(trace.of_value(value, node))
    trace.cut(node, kernel, inputs, axes.pop(last, None))
    made = trace.atoms.fresh(weight.shape[outputs])
    trace.cut(node, kernel, outputs, made)
    own = trace.weight(bias)
    if own is not None and own.dim() and own.shape[-1] == len(made):
        trace.cut(node, bias, own.dim() - 1, made)
    return {**axes, len(shape_of(node) or ()) - 1: made}


def _linear(trace: Trace, node: fx.Node) -> Axes:
    return _dense(trace, node, node.args[0], node.args[1], _argument(node, 2), False)


def _addmm(trace: Trace, node: fx.Node) -> Axes:
    bias, value, kernel = node.args[:3]
    if node.kwargs or (trace.weight(bias) is not None and trace.weight(bias).dim() > 1):  # type: ignore[union-attr]
        return keep(trace, node)
    return _dense(trace, node, value, kernel, bias, True)


def _product(trace: Trace, node: fx.Node) -> Axes:
    """Product of two activations, or of one with a constant matrix."""
    left, right = node.args[:2]
    if trace.weight(right) is not None and len(shape_of(left) or ()) > 1:
        return _dense(trace, node, left, right, None, True)
    ranks = [len(shape_of(value) or ()) for value in (left, right)]
    rank = len(shape_of(node) or ())
    if trace.weight(left) is not None or trace.weight(right) is not None or set(ranks) != {rank}:
        return keep(trace, node)
    one, other = trace.of_value(left, node), trace.of_value(right, node)
    inner, given = one.get(rank - 1), other.get(rank - 2)
    if inner is not None and given is not None:
        trace.atoms.tie(inner, given)
    else:
        for ids in (inner, given):
            if ids is not None:
                trace.atoms.hold(ids, said(node))
    for axes in (one, other):
        trace.hold({a: ids for a, ids in axes.items() if a < rank - 2}, node)
    found = {rank - 2: one.get(rank - 2), rank - 1: other.get(rank - 1)}
    return {axis: ids for axis, ids in found.items() if ids is not None}


def _batch_norm(trace: Trace, node: fx.Node) -> Axes:
    """Batch norm in evaluation: a factor and an offset per channel."""
    axes = trace.of_value(node.args[0], node)
    constants = [value for value in node.args[1:5] if value is not None]
    if any(trace.weight(value) is None for value in constants):
        return keep(trace, node)
    for value in constants:
        trace.cut(node, value, 0, axes.get(1))
    return axes


def _prelu(trace: Trace, node: fx.Node) -> Axes:
    axes = trace.of_value(node.args[0], node)
    weight = trace.weight(node.args[1])
    if weight is None:
        return keep(trace, node)
    if weight.numel() > 1:
        trace.cut(node, node.args[1], 0, axes.get(1))
    return axes


def _embedding(trace: Trace, node: fx.Node) -> Axes:
    table = trace.weight(node.args[0])
    if table is None:
        return keep(trace, node)
    made = trace.atoms.fresh(table.shape[1])
    trace.cut(node, node.args[0], 1, made)
    return {len(shape_of(node) or ()) - 1: made}


_POINTWISE = (
    "abs add clamp clamp_max clamp_min clone contiguous cos div dropout elu erf exp expm1 floor "
    "gelu hardsigmoid hardswish hardtanh leaky_relu log log1p log_sigmoid maximum minimum mish mul "
    "neg pow reciprocal relu relu6 round rsqrt rsub selu celu sigmoid sign silu sin softplus "
    "softsign sqrt square sub tanh threshold to where _to_copy subtract multiply divide "
    "true_divide absolute negative"
)
_SPATIAL = {
    1: "avg_pool1d max_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d "
    "upsample_linear1d reflection_pad1d replication_pad1d",
    2: "avg_pool2d max_pool2d adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest2d "
    "upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d reflection_pad2d "
    "replication_pad2d",
    3: "avg_pool3d max_pool3d adaptive_avg_pool3d upsample_nearest3d upsample_trilinear3d",
}


def _overloads(name: str) -> list[Any]:
    """Return every functional form of an ATen operator, in place or not, that this torch has."""
    packets = [getattr(_A, form, None) for form in (name, f"{name}_")]
    return [
        getattr(packet, overload)
        for packet in packets
        if packet is not None
        for overload in packet.overloads()
        if "out" not in overload
    ]


def _pad(trace: Trace, node: fx.Node) -> Axes:
    """Padding: what it pads is held."""
    amounts: Any = node.args[1]
    rank = len(shape_of(node) or ())
    axes = trace.of_value(node.args[0], node)
    padded = {rank - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
    trace.hold({a: ids for a, ids in axes.items() if a in padded}, node)
    return {a: ids for a, ids in axes.items() if a not in padded}


def _expand(trace: Trace, node: fx.Node) -> Axes:
    """Expansion: axes of the old size pass, the others are held."""
    before, after = shape_of(node.args[0]) or (), shape_of(node) or ()
    axes, shift = trace.of_value(node.args[0], node), len(after) - len(before)
    same = {a for a in axes if before[a] == after[a + shift]}
    trace.hold({a: ids for a, ids in axes.items() if a not in same}, node)
    return {a + shift: axes[a] for a in same}


def _table() -> dict[Any, Rule]:
    named: dict[str, Rule] = dict.fromkeys(_POINTWISE.split(), tracing.pointwise)
    for rank, names in _SPATIAL.items():
        named |= dict.fromkeys(names.split(), tracing.spatial(rank))
    named |= dict.fromkeys(
        ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "_unsafe_view"),
        tracing.view,
    )
    named |= dict.fromkeys(("permute", "transpose", "t"), tracing.permute)
    named |= dict.fromkeys(
        ("mean", "sum", "amax", "amin", "softmax", "log_softmax", "cumsum", "select"), tracing.over
    )
    named |= dict.fromkeys(("chunk", "split", "split_with_sizes"), tracing.split)
    named |= {
        "constant_pad_nd": _pad,
        "pad": _pad,
        "expand": _expand,
        "cat": tracing.cat,
        "concat": tracing.cat,
        "slice": tracing.cut_out,
        "layer_norm": tracing.layer_norm,
        "batch_norm": _batch_norm,
        "prelu": _prelu,
        "embedding": _embedding,
        "addmm": _addmm,
        "linear": _linear,
    }
    rules = {call: rule for name, rule in named.items() for call in _overloads(name)}
    rules |= dict.fromkeys(CONVOLUTIONS, _conv) | dict.fromkeys(TRANSPOSED, _transposed)
    return rules | dict.fromkeys(PRODUCTS, _product) | {tracing.GETITEM: tracing.item}


RULES: Mapping[Any, Rule] = _table()


def trace(graph: fx.GraphModule) -> Trace:
    """Return the trace of `graph`, whose nodes know their shapes."""
    return Trace.of(graph, RULES)
