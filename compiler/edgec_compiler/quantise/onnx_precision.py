"""Lower precisions of a float ONNX model: half floats, and Q/DQ pairs under our own statistics."""

from collections.abc import Mapping

import numpy as np
import onnx

from edgec_compiler.errors import ConversionError
from edgec_hardware_profiles import Quantization

Ranges = Mapping[str, tuple[float, float]]
# TensorRT: symmetric only, pairs on the weights too, one pair per reader, float biases.
_TENSORRT = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    "QuantizeBias": False,
}


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with half-precision weights and activations; its ends stay as they are."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    try:
        half: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    except Exception as error:  # the converter's errors share no base class
        raise ConversionError(f"the model cannot be converted to fp16: {error}") from error
    return half


def to_qdq(model: onnx.ModelProto, ranges: Ranges, style: Quantization) -> onnx.ModelProto:
    """Return `model` with int8 activations and int8 weights per channel, as Q/DQ pairs.

    Args:
        model: float.
        ranges: of its activations, by tensor name.
        style: what the target's kernels want; `reduce_range` makes weights 7-bit, because x86
            kernels without VNNI saturate with 8 bits.

    Raises:
        ConversionError: the quantiser refuses the model.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    found = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    named = onnx.shape_inference.infer_shapes(model)
    try:
        quantiser = QDQQuantizer(
            named,
            True,  # per channel
            style.reduce_range,
            QuantType.QInt8,
            QuantType.QInt8,
            TensorsData(CalibrationMethod.MinMax, found),
            [],
            [],
            sorted({*QDQRegistry, *QLinearOpsRegistry}),
            dict(_TENSORRT) if style.qdq_style == "tensorrt" else {},
        )
        quantiser.quantize_model()
    except Exception as error:  # the quantiser's errors share no base class
        raise ConversionError(f"onnxruntime cannot quantise the model: {error}") from error
    result: onnx.ModelProto = quantiser.model.model
    result.producer_name, result.producer_version = "edgec", ""
    del result.graph.value_info[:]
    return result
