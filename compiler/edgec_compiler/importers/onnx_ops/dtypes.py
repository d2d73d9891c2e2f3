"""ONNX element types as torch knows them, and values that numpy and torch hold differently."""

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgec_compiler.importers.onnx_dtypes import NARROW, numpy_dtype, type_name
from edgec_compiler.importers.onnx_node import Node

_BFLOAT16 = "bfloat16"  # numpy has it from ml_dtypes, which torch does not read


def torch_dtype(node: Node, element_type: int) -> torch.dtype:
    """Return torch's name of an ONNX element type, or refuse `node`."""
    if element_type == onnx.TensorProto.BFLOAT16:
        return torch.bfloat16
    known = numpy_dtype(element_type)
    if known is None:
        node.refuse(f"element type {type_name(element_type)} has no counterpart in torch")
    dtype: torch.dtype = getattr(torch, known.name)
    return dtype


def is_narrow(element_type: int) -> bool:
    """Return whether an element type has fewer than 8 bits; its values travel in 8."""
    return element_type in NARROW


def tensor_of(values: npt.NDArray[np.generic]) -> torch.Tensor:
    """Return a tensor with memory of its own."""
    copy = np.array(values)  # numpy scalars have no memory of their own
    if copy.dtype.name == _BFLOAT16:
        return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copy)


def values_of(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """Return a tensor as numpy's; the inverse of `tensor_of`."""
    if tensor.dtype == torch.bfloat16:
        bits: npt.NDArray[np.generic] = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16))
    values: npt.NDArray[np.generic] = tensor.detach().resolve_neg().numpy()
    return values
