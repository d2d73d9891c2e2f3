"""Quantise and dequantise, so that models with Q/DQ pairs can be read as the floats they mean."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgec_compiler.importers.onnx_node import Node
from edgec_compiler.importers.onnx_ops.dtypes import cast, is_narrow, is_tiny, torch_dtype

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)


def along(value: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return a scale or zero point shaped to broadcast along `axis` of x."""
    if value.dim() == 0 or value.numel() == 1:
        return value.reshape(())
    return value.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])


def _blocks(node: Node, value: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return a scale or zero point per block of `block_size` along `axis`, one per element."""
    size = node.attr("block_size", 0)
    if not size:
        return along(value, x, axis)
    return value.repeat_interleave(size, axis).narrow(axis, 0, x.shape[axis])


def _quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    given = node.attr("output_dtype", 0)
    dtype = torch.uint8 if zero is None else zero.dtype
    if zero is None and given:
        dtype = torch_dtype(node, given)
    if is_tiny(dtype):
        return cast(x / _blocks(node, scale, x, node.attr("axis", 1)).to(x.dtype), dtype)
    if dtype not in _INTEGERS or is_narrow(given) or 2 in node.narrow:
        node.refuse("only 8-, 16- and 32-bit integers can be made")
    axis = node.attr("axis", 1)
    limits = torch.iinfo(dtype)
    steps = torch.round(x / _blocks(node, scale, x, axis).to(x.dtype))
    if zero is not None:
        steps = steps + _blocks(node, zero, x, axis).to(steps.dtype)
    return torch.clamp(steps, limits.min, limits.max).to(dtype)


def _dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    axis, wide = node.attr("axis", 1), x.to(scale.dtype)
    if zero is not None:
        wide = wide - _blocks(node, zero, x, axis).to(scale.dtype)
    return wide * _blocks(node, scale, x, axis)


OPS: dict[str, Callable[..., Any]] = {
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
}
