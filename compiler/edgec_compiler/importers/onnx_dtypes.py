"""ONNX element types as numpy knows them; those that torch shares."""

from typing import Any

import numpy as np
import onnx

_TYPES: dict[int, Any] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.DOUBLE: np.float64,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.INT8: np.int8,
    onnx.TensorProto.INT16: np.int16,
    onnx.TensorProto.INT32: np.int32,
    onnx.TensorProto.INT64: np.int64,
    onnx.TensorProto.UINT8: np.uint8,
    onnx.TensorProto.UINT16: np.uint16,
    onnx.TensorProto.UINT32: np.uint32,
    onnx.TensorProto.UINT64: np.uint64,
    onnx.TensorProto.BOOL: np.bool_,
}
# Integers of fewer than 8 bits, which nobody computes in: the type whose values hold theirs.
NARROW: dict[int, Any] = {
    onnx.TensorProto.INT4: np.int8,
    onnx.TensorProto.UINT4: np.uint8,
    onnx.TensorProto.INT2: np.int8,
    onnx.TensorProto.UINT2: np.uint8,
}
# Floats of 8 bits, which only stand for weights: by the name that numpy has from ml_dtypes.
TINY: dict[int, str] = {
    onnx.TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    onnx.TensorProto.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    onnx.TensorProto.FLOAT8E5M2: "float8_e5m2",
    onnx.TensorProto.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
}


def numpy_dtype(element_type: int) -> np.dtype[Any] | None:
    """Return numpy's name of an ONNX element type, or None if it has none that torch shares."""
    return np.dtype(_TYPES[element_type]) if element_type in _TYPES else None


def type_name(element_type: int) -> str:
    """Return ONNX's own name of an element type."""
    try:
        name: str = onnx.TensorProto.DataType.Name(element_type)
    except ValueError:
        return str(element_type)
    return name
