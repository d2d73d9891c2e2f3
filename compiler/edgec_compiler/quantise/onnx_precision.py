"""Lower precisions of a float ONNX model: half floats, and Q/DQ pairs under our own statistics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from edgec_compiler.errors import ConversionError
from edgec_compiler.quantise import onnx_weights
from edgec_compiler.quantise.clipping import Range
from edgec_hardware_profiles import Quantization

WIDE_OPSET = 21  # the first whose QuantizeLinear knows 16 bits
# TensorRT: symmetric only, pairs on the weights too, one pair per reader, float biases.
_TENSORRT = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    "QuantizeBias": False,
}


def quantise(
    model: onnx.ModelProto,
    precision: str,
    ranges: Mapping[str, Range] | None,
    style: Quantization,
    float_outputs: Sequence[str] = (),
    *,
    narrow_recurrent: bool = False,
) -> onnx.ModelProto:
    """Return the float ONNX model `model` at `precision`.

    int8: int8 activations and weights per channel, as Q/DQ pairs. int16x8: 16-bit activations.
    int4, int8-weights, dynamic: as `onnx_weights` says. fp16: half floats inside.

    Args:
        model: float.
        precision: one of `precisions.PRECISIONS` but auto.
        ranges: of its activations, by tensor name; needed by int8 and int16x8.
        style: what the target's kernels want.
        float_outputs: the first outputs of nodes that stay in float.
        narrow_recurrent: the target's runtime dequantises the weights of recurrent layers, for
            which Q/DQ pairs have no integer kernel.

    Raises:
        ConversionError: the quantiser refuses the model, or has nothing to do in it.
    """
    if precision == "fp32":
        return model
    named = onnx.ModelProto()
    named.CopyFrom(model)
    _name_nodes(named)
    made = _narrowed(named, precision, ranges or {}, style, float_outputs)
    if narrow_recurrent and precision in ("int8", "int16x8"):
        onnx_weights.narrow_recurrent(made, float_outputs)
    made.producer_name, made.producer_version = "edgec", ""
    del made.graph.value_info[:]
    return made


def _narrowed(
    named: onnx.ModelProto,
    precision: str,
    ranges: Mapping[str, Range],
    style: Quantization,
    kept: Sequence[str],
) -> onnx.ModelProto:
    match precision:
        case "fp16":
            return to_half(named, kept)
        case "int8":
            return to_qdq(named, ranges, style, kept)
        case "int16x8":
            return to_qdq(_at_opset(named, WIDE_OPSET), ranges, style, kept, wide=True)
        case "int4" | "int8-weights":
            return onnx_weights.narrow(named, kept, four_bits=precision == "int4")
        case "dynamic":
            return onnx_weights.dynamic(named, kept)
    raise ValueError(precision)


def _at_opset(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # the converter's errors share no base class
        raise ConversionError(
            f"onnx cannot bring the model to opset {opset}, which 16-bit pairs need: {error}"
        ) from error


def to_half(model: onnx.ModelProto, float_outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """Return `model` with half-precision weights and activations; its ends stay as they are.

    Args:
        model: float, its nodes named; it is used up.
        float_outputs: the first outputs of nodes that stay in float32.

    Raises:
        ConversionError: the converter refuses the model.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    kept = _nodes_that_make(model, float_outputs)
    try:
        half: onnx.ModelProto = convert_float_to_float16(
            model, keep_io_types=True, node_block_list=kept
        )
    except Exception as error:  # the converter's errors share no base class
        raise ConversionError(f"the model cannot be converted to fp16: {error}") from error
    ordered = ONNXModel(half)
    ordered.topological_sort()  # it appends its casts; ONNX wants nodes in order
    result: onnx.ModelProto = ordered.model
    return result


def to_qdq(
    model: onnx.ModelProto,
    ranges: Mapping[str, Range],
    style: Quantization,
    float_outputs: Sequence[str] = (),
    *,
    wide: bool = False,
) -> onnx.ModelProto:
    """Return `model` with int8 activations and int8 weights per channel, as Q/DQ pairs.

    Args:
        model: float, its nodes named; opset 21 if `wide`.
        ranges: of its activations, by tensor name.
        style: what the target's kernels want; `reduce_range` makes weights 7-bit, because x86
            kernels without VNNI saturate with 8 bits.
        float_outputs: the first outputs of nodes that stay in float.
        wide: activations have 16 bits, unsigned as Qualcomm's HTP takes them.

    Raises:
        ConversionError: the quantiser refuses the model.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    found = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    named = onnx.shape_inference.infer_shapes(model)
    _flatten_biases(named)
    options = dict(_TENSORRT) if style.qdq_style == "tensorrt" else {}
    try:
        quantiser = QDQQuantizer(
            named,
            True,  # per channel
            style.reduce_range,
            QuantType.QInt8,
            QuantType.QUInt16 if wide else QuantType.QInt8,
            TensorsData(CalibrationMethod.MinMax, found),
            [],
            _nodes_that_make(named, float_outputs),
            sorted({*QDQRegistry, *QLinearOpsRegistry}),
            options | {"TensorQuantOverrides": _scales_of_several_axes(named, QuantType.QInt8)},
        )
        quantiser.quantize_model()
        quantiser.model.topological_sort()  # it appends its nodes; ONNX wants them in order
    except Exception as error:  # the quantiser's errors share no base class
        raise ConversionError(f"onnxruntime cannot quantise the model: {error}") from error
    result: onnx.ModelProto = quantiser.model.model
    return result


def _flatten_biases(model: onnx.ModelProto) -> None:
    """Give biases that are stored as a row the one axis that the quantiser reads."""
    readers = Counter(name for node in model.graph.node for name in node.input)
    gemms = [node for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2]
    biases = Counter(node.input[2] for node in gemms)
    for tensor in model.graph.initializer:
        is_row = len(tensor.dims) == 2 and tensor.dims[0] == 1
        if is_row and biases[tensor.name] == readers[tensor.name] > 0:
            del tensor.dims[0]


def _scales_of_several_axes(model: onnx.ModelProto, kind: Any) -> dict[str, list[dict[str, Any]]]:
    """Ask for one step over all of the scales of layer norms over several axes.

    The quantiser would take one of these axes for channels, and stumble over a bias beside it.
    """
    scales = {node.input[1] for node in model.graph.node if node.op_type == "LayerNormalization"}
    return {
        tensor.name: [{"quant_type": kind}]
        for tensor in model.graph.initializer
        if tensor.name in scales and len(tensor.dims) > 1
    }


def _name_nodes(model: onnx.ModelProto) -> None:
    """Name every node after its first output, in place: quantisers leave nodes out by name."""
    for node in model.graph.node:
        node.name = f"node_{next(filter(None, node.output), '')}"


def _nodes_that_make(model: onnx.ModelProto, outputs: Sequence[str]) -> list[str]:
    wanted = set(outputs)
    return [node.name for node in model.graph.node if wanted & set(node.output)]
