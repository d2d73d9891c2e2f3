"""ONNX element types as torch knows them."""

import torch

from edgec_compiler.importers.onnx_dtypes import numpy_dtype, type_name
from edgec_compiler.importers.onnx_node import Node


def torch_dtype(node: Node, element_type: int) -> torch.dtype:
    """Return torch's name of an ONNX element type, or refuse `node`."""
    known = numpy_dtype(element_type)
    if known is None:
        node.refuse(f"element type {type_name(element_type)} has no counterpart in torch")
    dtype: torch.dtype = getattr(torch, known.name)
    return dtype
