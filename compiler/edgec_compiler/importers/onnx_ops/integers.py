"""Convolutions and matrix products of quantised integers, computed as the reals they stand for.

Sums of products of 8-bit integers are exact in float32 up to 256 terms of the greatest size;
beyond, they round as the float model itself would.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgec_compiler.importers.onnx_node import Node
from edgec_compiler.importers.onnx_ops.layers import convolve
from edgec_compiler.importers.onnx_ops.quantised import along


def _real(x: Tensor, zero: Tensor | None, axis: int = 0) -> Tensor:
    wide = x.to(torch.float32)
    return wide if zero is None else wide - along(zero, x, axis).to(torch.float32)


def _steps(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    limits = torch.iinfo(zero.dtype)
    steps = torch.round(x / scale.to(x.dtype)) + zero.to(x.dtype)
    return torch.clamp(steps, limits.min, limits.max).to(zero.dtype)


def _rows(value: Tensor) -> Tensor:
    """Return a scale or zero point per row of the left factor as a column."""
    return value.reshape(()) if value.numel() == 1 else value.unsqueeze(-1)


def _conv_integer(
    node: Node, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    return convolve(node, _real(x, x_zero), _real(w, w_zero)).round().to(torch.int32)


def _matmul_integer(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    if any(zero is not None and zero.dim() > 1 for zero in (a_zero, b_zero)):
        node.refuse("zero points of more than one axis")
    left = a.to(torch.float32)
    if a_zero is not None:
        left = left - _rows(a_zero).to(torch.float32)
    right = b.to(torch.float32)
    if b_zero is not None:
        right = right - b_zero.to(torch.float32)
    return torch.matmul(left, right).round().to(torch.int32)


def _qlinear_conv(
    node: Node,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    total = convolve(node, _real(x, x_zero), _real(w, w_zero))
    if bias is not None:
        total = total + along(bias, total, 1).to(torch.float32)
    return _steps(total * (x_scale * along(w_scale, total, 1)), y_scale, y_zero)


def _qlinear_matmul(
    _node: Node,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    left = (a.to(torch.float32) - _rows(a_zero).to(torch.float32)) * _rows(a_scale)
    right = (b.to(torch.float32) - b_zero.to(torch.float32)) * b_scale
    return _steps(torch.matmul(left, right), y_scale, y_zero)


OPS: dict[str, Callable[..., Any]] = {
    "ConvInteger": _conv_integer,
    "MatMulInteger": _matmul_integer,
    "QLinearConv": _qlinear_conv,
    "QLinearMatMul": _qlinear_matmul,
}
