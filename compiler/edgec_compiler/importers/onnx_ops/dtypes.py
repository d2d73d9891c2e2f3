"""ONNX element types as torch knows them, and values that numpy and torch hold differently."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from edgec_compiler.importers.onnx_dtypes import NARROW, TINY, numpy_dtype, type_name
from edgec_compiler.importers.onnx_node import Node

# What numpy has from ml_dtypes, which torch does not read: (numpy's, its bits; torch's bits, its).
_FOREIGN: dict[str, tuple[Any, Any, torch.dtype, torch.dtype]] = {
    name: (
        onnx.helper.tensor_dtype_to_np_dtype(element),
        np.dtype(bits),
        getattr(torch, bits),
        getattr(torch, name),
    )
    for element, name, bits in (
        (onnx.TensorProto.BFLOAT16, "bfloat16", "int16"),
        *((element, name, "uint8") for element, name in TINY.items()),
    )
}
_LAST_E4M3FN = 464  # what is above is rounded to more than the largest, 448
_NAMES = {dtype: name for name, (*_, dtype) in _FOREIGN.items()}


def torch_dtype(node: Node, element_type: int) -> torch.dtype:
    """Return torch's name of an ONNX element type, or refuse `node`."""
    if element_type == onnx.TensorProto.BFLOAT16:
        return torch.bfloat16
    if element_type in TINY:
        return _FOREIGN[TINY[element_type]][-1]
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
    if copy.dtype.name in _FOREIGN:
        _, bits, _, dtype = _FOREIGN[copy.dtype.name]
        return torch.from_numpy(copy.view(bits)).view(dtype)
    return torch.from_numpy(copy)


def values_of(tensor: torch.Tensor) -> npt.NDArray[np.generic]:
    """Return a tensor as numpy's; the inverse of `tensor_of`."""
    if tensor.dtype in _NAMES:
        own, _, bits, _ = _FOREIGN[_NAMES[tensor.dtype]]
        held: npt.NDArray[np.generic] = tensor.detach().contiguous().view(bits).numpy()
        return held.view(own)
    values: npt.NDArray[np.generic] = tensor.detach().resolve_neg().numpy()
    return values


def cast(x: torch.Tensor, dtype: torch.dtype, *, saturate: bool = True) -> torch.Tensor:
    """Return `x` as `dtype`; what a tiny float cannot hold becomes its largest, if `saturate`.

    If not, it becomes infinite or, in a type without infinity, not a number.
    """
    if saturate and is_tiny(dtype):
        limits = torch.finfo(dtype)
        x = x.clamp(limits.min, limits.max)
    elif dtype == torch.float8_e4m3fn:  # torch saturates this one by itself
        x = torch.where(x.abs() <= _LAST_E4M3FN, x, torch.nan)
    return x.to(dtype)


def is_tiny(dtype: torch.dtype) -> bool:
    """Return whether `dtype` is a float of 8 bits."""
    return _NAMES.get(dtype) in TINY.values()
