"""ONNX element types as torch and numpy know them."""

from typing import Any

import numpy as np
import onnx
import torch

from edgec_compiler.importers.onnx_node import Node

_TYPES: dict[int, tuple[torch.dtype, Any]] = {
    onnx.TensorProto.FLOAT: (torch.float32, np.float32),
    onnx.TensorProto.DOUBLE: (torch.float64, np.float64),
    onnx.TensorProto.FLOAT16: (torch.float16, np.float16),
    onnx.TensorProto.INT8: (torch.int8, np.int8),
    onnx.TensorProto.INT16: (torch.int16, np.int16),
    onnx.TensorProto.INT32: (torch.int32, np.int32),
    onnx.TensorProto.INT64: (torch.int64, np.int64),
    onnx.TensorProto.UINT8: (torch.uint8, np.uint8),
    onnx.TensorProto.UINT16: (torch.uint16, np.uint16),
    onnx.TensorProto.UINT32: (torch.uint32, np.uint32),
    onnx.TensorProto.UINT64: (torch.uint64, np.uint64),
    onnx.TensorProto.BOOL: (torch.bool, np.bool_),
}


def torch_dtype(node: Node, element_type: int) -> torch.dtype:
    """Return torch's name of an ONNX element type, or refuse `node`."""
    if element_type not in _TYPES:
        node.refuse(f"element type {type_name(element_type)} has no counterpart in torch")
    return _TYPES[element_type][0]


def numpy_dtype(element_type: int) -> np.dtype[Any] | None:
    """Return numpy's name of an ONNX element type, or None if it has none that torch shares."""
    return np.dtype(_TYPES[element_type][1]) if element_type in _TYPES else None


def type_name(element_type: int) -> str:
    """Return ONNX's own name of an element type."""
    try:
        name: str = onnx.TensorProto.DataType.Name(element_type)
    except ValueError:
        return str(element_type)
    return name
