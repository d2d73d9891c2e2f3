"""ONNX models with narrow weights and float ends: no calibration data is needed.

narrow   weights of convolutions, matrix products and recurrent layers as int8 per channel (matrix
         products as int4 in blocks, if asked for) behind a DequantizeLinear or in MatMulNBits;
         activations stay float.
dynamic  matrix products, LSTMs and embeddings in int8, their inputs quantised by each inference's
         own range. Convolutions stay float: ONNX Runtime's ConvInteger is slow, and one range per
         image is too coarse for depthwise ones. It has no integer GRU or RNN: they are narrowed.
"""

import logging
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgec_compiler.errors import ConversionError

QMAX = 127
_BLOCK = 32  # weights of a matrix product that share one 4-bit scale
_DYNAMIC = ("MatMul", "LSTM", "Attention", "Gather", "EmbedLayerNormalization")  # Gemm: as MatMul
_MADE_DYNAMIC = ("MatMulInteger", "DynamicQuantizeLSTM", "QAttention", "DequantizeLinear")
RECURRENT = ("GRU", "LSTM", "RNN")
_LEAST = 32  # weights: below, scales cost more than they save


def narrow(
    model: onnx.ModelProto, float_outputs: Sequence[str], *, four_bits: bool
) -> onnx.ModelProto:
    """Return `model` with narrow weights.

    Args:
        model: float, opset 13 or newer; its nodes have names of their own.
        float_outputs: the first outputs of nodes that keep float weights.
        four_bits: matrix products get int4 weights, in blocks of 32 with a scale each.

    Raises:
        ConversionError: nothing in it can be quantised.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    count = 0
    if four_bits:
        made, count = _four_bits(made, float_outputs)
        if count == 0:
            raise ConversionError(
                "int4: the model has no matrix product with constant weights, which is all that "
                "ONNX Runtime takes in 4 bits: choose int8 or int8-weights"
            )
    products = [f"{output}_MatMul" for output in float_outputs]  # of Gemms, split in two
    count += _eight_bits(made, [*float_outputs, *products])
    if count == 0:
        raise ConversionError(f"int8-weights: {_NOTHING}")
    return made


_NOTHING = "the model has no layer with weights to quantise: choose another precision"


def _four_bits(model: onnx.ModelProto, float_outputs: Sequence[str]) -> tuple[onnx.ModelProto, int]:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.onnx_model import ONNXModel

    left = _left_out(model, float_outputs)
    wrapped = ONNXModel(model)
    wrapped.replace_gemm_with_matmul()  # a Gemm would be passed over without a word
    logging.getLogger("onnxruntime.quantization").setLevel(logging.WARNING)
    try:
        quantiser = MatMulNBitsQuantizer(
            wrapped.model, bits=4, block_size=_BLOCK, is_symmetric=True, nodes_to_exclude=left
        )
        quantiser.process()
    except Exception as error:  # the quantiser's errors share no base class
        raise ConversionError(f"onnxruntime cannot quantise the model: {error}") from error
    made: onnx.ModelProto = quantiser.model.model
    return made, sum(node.op_type == "MatMulNBits" for node in made.graph.node)


def _left_out(model: onnx.ModelProto, float_outputs: Sequence[str]) -> list[str]:
    """Return the names of nodes that stay float; a Gemm's MatMul gets a name of its own."""
    kept = set(float_outputs)
    names = [node.name for node in model.graph.node if kept & set(node.output)]
    return [*names, *(f"{name}_MatMul" for name in names)]


def _channel_axis(node: onnx.NodeProto, place: int, rank: int) -> int | None:
    """Return the axis of input `place` along which its weights have a scale each, or None."""
    if node.op_type in RECURRENT:
        return 1 if place in (1, 2) else None  # [directions, gates * hidden, inputs]
    if place != 1:
        return None
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    match node.op_type:
        case "Conv":
            return 0
        case "ConvTranspose":
            return 1 if attributes.get("group", 1) == 1 else 0
        case "Gemm":
            return 0 if attributes.get("transB", 0) else 1
        case "MatMul" if rank == 2:
            return 1
    return None


def narrow_recurrent(model: onnx.ModelProto, float_outputs: Sequence[str]) -> None:
    """Store the weights of recurrent layers as int8 in place; they are computed in float.

    Args:
        model: opset 13 or newer.
        float_outputs: the first outputs of nodes that keep float weights.
    """
    _eight_bits(model, float_outputs, RECURRENT)


def _eight_bits(
    model: onnx.ModelProto, float_outputs: Sequence[str], only: Sequence[str] = ()
) -> int:
    """Store weights as int8 in place, those that all readers take alike; return how many.

    `only` names the operators whose weights are meant; empty for all.
    """
    graph, kept = model.graph, set(float_outputs)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    axes: dict[str, set[int | None]] = {}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in constants:
                axis = _channel_axis(node, place, len(constants[name].dims))
                floats = bool(kept & set(node.output)) or bool(only and node.op_type not in only)
                axes.setdefault(name, set()).add(None if floats else axis)
    added = []
    for name, found in axes.items():
        tensor, axis = constants[name], next(iter(found))
        values = numpy_helper.to_array(tensor)
        if len(found) != 1 or axis is None or values.dtype != np.float32 or values.size < _LEAST:
            continue
        added.append(name)
        _store(graph, tensor, values, axis)
    return len(added)


def _store(graph: onnx.GraphProto, tensor: onnx.TensorProto, values: np.ndarray, axis: int) -> None:
    """Put int8 weights and a DequantizeLinear into the place of a float initializer."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    peaks = np.abs(values).max(axis=others, keepdims=True)
    scales = np.where(peaks > 0, peaks / QMAX, 1).astype(np.float32)
    coded = np.clip(np.rint(values / scales), -QMAX, QMAX).astype(np.int8)
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(coded, f"{name}_quantized"))
    graph.initializer.append(numpy_helper.from_array(scales.reshape(-1), f"{name}_scale"))
    node = helper.make_node(
        "DequantizeLinear", [f"{name}_quantized", f"{name}_scale"], [name], axis=axis
    )
    node.name = f"{name}_DequantizeLinear"
    graph.node.insert(0, node)


def dynamic(model: onnx.ModelProto, float_outputs: Sequence[str]) -> onnx.ModelProto:
    """Return `model` with int8 matrix products whose inputs are quantised as they come.

    Args:
        model: float; its nodes have names of their own.
        float_outputs: the first outputs of nodes that stay in float.

    Raises:
        ConversionError: nothing in it can be quantised, or the quantiser refuses it.
    """
    from onnxruntime.quantization import QuantizationMode, QuantType
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer

    try:
        quantiser = ONNXQuantizer(
            onnx.shape_inference.infer_shapes(model),
            True,  # per channel
            False,  # all 8 bits
            QuantizationMode.IntegerOps,
            False,  # static
            QuantType.QUInt8,  # signed ones saturate on x86 without VNNI
            QuantType.QUInt8,
            None,
            [],
            _left_out(model, float_outputs),
            list(_DYNAMIC),
            {"MatMulConstBOnly": True},
        )
        quantiser.quantize_model()
    except Exception as error:  # the quantiser's errors share no base class
        raise ConversionError(f"onnxruntime cannot quantise the model: {error}") from error
    made: onnx.ModelProto = quantiser.model.model
    narrow_recurrent(made, float_outputs)
    if not any(node.op_type in _MADE_DYNAMIC for node in made.graph.node):
        raise ConversionError(
            "dynamic: the model has no matrix product with constant weights, and convolutions "
            "are left in float: choose int8 or int8-weights"
        )
    return made
