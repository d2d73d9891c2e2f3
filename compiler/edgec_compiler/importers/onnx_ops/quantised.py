"""Quantise and dequantise, so that models with Q/DQ pairs can be read as the floats they mean."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgec_compiler.importers.onnx_node import Node

_EIGHT_BIT = (torch.int8, torch.uint8)


def _along(value: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return a scale or zero point shaped to broadcast along `axis` of x."""
    if value.dim() == 0 or value.numel() == 1:
        return value.reshape(())
    return value.reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])


def _quantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    if node.attr("block_size", 0) or scale.dim() > 1:
        node.refuse("quantisation in blocks")
    dtype = torch.uint8 if zero is None else zero.dtype
    axis = node.attr("axis", 1)
    limits = torch.iinfo(dtype)
    steps = torch.round(x / _along(scale, x, axis))
    if zero is not None:
        steps = steps + _along(zero, x, axis).to(steps.dtype)
    return torch.clamp(steps, limits.min, limits.max).to(dtype)


def _dequantize(node: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    if node.attr("block_size", 0) or scale.dim() > 1:
        node.refuse("quantisation in blocks")
    axis, wide = node.attr("axis", 1), x.to(scale.dtype)
    if zero is not None:
        wide = wide - _along(zero, x, axis).to(scale.dtype)
    return wide * _along(scale, x, axis)


OPS: dict[str, Callable[..., Any]] = {
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
}
