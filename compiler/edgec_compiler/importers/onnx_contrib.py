"""Operators of ONNX Runtime's own domain, written out in ONNX's operators.

Its optimiser fuses (`FusedConv`, `BiasGelu`), and its quantiser makes operators on integers
(`QLinearAdd`), which stand for pairs of DequantizeLinear and QuantizeLinear around the float one;
so do ONNX's own `QLinearConv` and `QLinearMatMul`, which `as_pairs` writes out as well.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx

from edgec_compiler.importers.onnx_attention import attention, embed_norm, multi_head_attention
from edgec_compiler.importers.onnx_writer import Nodes, NotWritableError, Writer

DOMAIN = "com.microsoft"
_WINDOW = (
    *("auto_pad", "ceil_mode", "count_include_pad", "dilations"),
    *("group", "kernel_shape", "pads", "strides"),
)


def _two(kind: str) -> Callable[[Writer], None]:
    return lambda w: w.coded(w.op(kind, [w.real(0), w.real(3)]), 6)


def _one(kind: str, *kept: str) -> Callable[[Writer], None]:
    return lambda w: w.coded(w.op(kind, [w.real(0)], **w.kept(*kept)), 3)


def _concat(w: Writer) -> None:
    parts = [w.real(first) for first in range(2, len(w.node.input), 3)]
    w.coded(w.op("Concat", parts, **w.kept("axis")), 0)


def _conv(w: Writer) -> None:
    given = [w.real(0), w.real(3, axis=0)]
    if w.input(8):
        given.append(_bias(w, 8))
    w.coded(w.op("Conv", given, **w.kept(*_WINDOW)), 6)


def _bias(w: Writer, index: int) -> str:
    """Return the real bias of a sum of products: its step is that of both factors."""
    step = w.op("Mul", [w.input(1), w.input(4)])
    return w.op("Mul", [w.op("Cast", [w.input(index)], to=onnx.TensorProto.FLOAT), step])


def _gemm(w: Writer) -> None:
    given = [w.real(0), w.real(3, axis=0 if w.attributes.get("transB") else 1)]
    if w.input(6):
        given.append(_bias(w, 6))
    made = w.op("Gemm", given, **w.kept("alpha", "transA", "transB"))
    if w.input(7):
        w.coded(made, 7)
    else:
        w.op("Identity", [made], w.node.output[0])


def _activated(w: Writer, value: str, alpha: float) -> None:
    kind = w.text("activation")
    attributes = {"alpha": alpha} if kind == "LeakyRelu" else {}
    w.op(kind or "Identity", [value], w.node.output[0], **attributes)


def _fused_conv(w: Writer) -> None:
    made = w.op("Conv", [name for name in w.node.input[:3] if name], **w.kept(*_WINDOW))
    if w.input(3):
        made = w.op("Add", [made, w.input(3)])
    _activated(w, made, (w.attributes.get("activation_params") or [0.01])[0])


def _fused_gemm(w: Writer) -> None:
    made = w.op("Gemm", w.node.input, **w.kept("alpha", "beta", "transA", "transB"))
    _activated(w, made, w.attributes.get("leaky_relu_alpha", 0.01))


def _fused_matmul(w: Writer) -> None:
    factors = [
        w.op("Einsum", [name], equation="...ij->...ji") if w.attributes.get(flag) else name
        for name, flag in zip(w.node.input, ("transA", "transB"), strict=True)
    ]
    alpha = w.op("Constant", [], value_float=w.attributes.get("alpha", 1.0))
    w.op("Mul", [w.op("MatMul", factors), alpha], w.node.output[0])


def _gelu(**attributes: Any) -> Callable[[Writer], None]:
    def write(w: Writer) -> None:
        x = w.op("Add", w.node.input) if w.input(1) else w.input(0)
        w.op("Gelu", [x], w.node.output[0], **attributes)

    return write


def _skip_norm(w: Writer) -> None:
    total = w.op("Add", w.node.input[:2])
    if w.input(4):
        total = w.op("Add", [total, w.input(4)])
    given = [total, *(name for name in w.node.input[2:4] if name)]
    epsilon = w.attributes.get("epsilon", 1e-12)
    w.op("LayerNormalization", given, w.node.output[0], axis=-1, epsilon=epsilon)
    if len(w.node.output) > 3 and w.node.output[3]:
        w.op("Identity", [total], w.node.output[3])


def _quick_gelu(w: Writer) -> None:
    alpha = w.op("Constant", [], value_float=w.attributes.get("alpha", 1.702))
    share = w.op("Sigmoid", [w.op("Mul", [w.input(0), alpha])])
    w.op("Mul", [w.input(0), share], w.node.output[0])


def _same(w: Writer) -> None:
    w.op(w.node.op_type, w.node.input, w.node.output[0], **w.kept("axis", "block_size"))


_QUANTISED: Mapping[str, Callable[[Writer], None]] = {
    "QGemm": _gemm,
    "QLinearAdd": _two("Add"),
    "QLinearAveragePool": _one("AveragePool", *_WINDOW),
    "QLinearConcat": _concat,
    "QLinearGlobalAveragePool": _one("GlobalAveragePool"),
    "QLinearLeakyRelu": _one("LeakyRelu", "alpha"),
    "QLinearMul": _two("Mul"),
    "QLinearSigmoid": _one("Sigmoid"),
    "QLinearSoftmax": _one("Softmax", "axis"),
}
_TABLE: Mapping[str, Callable[[Writer], None]] = {
    **_QUANTISED,
    "Attention": attention,
    "BiasGelu": _gelu(),
    "DequantizeLinear": _same,
    "EmbedLayerNormalization": embed_norm,
    "FastGelu": _gelu(approximate="tanh"),
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu(),
    "MultiHeadAttention": multi_head_attention,
    "QuantizeLinear": _same,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_norm,
    "TransposeMatMul": _fused_matmul,
}
_OWN: Mapping[str, Callable[[Writer], None]] = {  # of ONNX itself
    "QLinearConv": _conv,
    "QLinearMatMul": _two("MatMul"),
}
_UNREAD = ("channels_last", "transBatchA", "transBatchB")  # attributes that mean other layouts


def written_out(node: onnx.NodeProto, types: Sequence[onnx.TypeProto]) -> Nodes | None:
    """Return what an operator of ONNX Runtime stands for, or None if it is not known.

    Args:
        node: the operator.
        types: of its inputs.
    """
    return _written(node, _TABLE, types) if node.domain == DOMAIN else None


def as_pairs(node: onnx.NodeProto) -> Nodes:
    """Return an operator on integers as the float one between pairs; any other as it is."""
    if node.domain == DOMAIN:
        table = {**_QUANTISED, "DequantizeLinear": _same, "QuantizeLinear": _same}
        return _written(node, table) or [node]
    return (_written(node, _OWN) if node.domain in ("", "ai.onnx") else None) or [node]


def _written(
    node: onnx.NodeProto,
    table: Mapping[str, Callable[[Writer], None]],
    types: Sequence[onnx.TypeProto] = (),
) -> Nodes | None:
    writer = Writer(node, types)
    if node.op_type not in table or any(writer.attributes.get(name) for name in _UNREAD):
        return None
    try:
        table[node.op_type](writer)
    except NotWritableError:
        return None
    return writer.nodes
