"""Operators with weights (convolution, matrix product) and normalisations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgec_compiler.importers.onnx_node import Node
from edgec_compiler.importers.onnx_ops.padding import is_even, pad, pads_of, spatial

_CONV: dict[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def convolve(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return what `Conv` makes of x [N, C, *spatial]."""
    rank = weight.dim() - 2
    if rank not in _CONV:
        node.refuse(f"convolution over {rank} spatial axes")
    pads = pads_of(node, x, tuple(weight.shape[2:]))
    strides, dilations = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    padding: Any = 0
    if is_even(pads):
        padding = [before for before, _ in pads]
    else:
        x = pad(x, pads)
    group = node.attr("group", 1)
    return _CONV[rank](x, weight, bias, list(strides), padding, list(dilations), group)


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.dim() - 2
    if rank not in _CONV_TRANSPOSE:
        node.refuse(f"transposed convolution over {rank} spatial axes")
    strides, dilations = spatial(node, "strides", rank), spatial(node, "dilations", rank)
    extra = list(node.attr("output_padding") or [0] * rank)
    group = node.attr("group", 1)
    full = _CONV_TRANSPOSE[rank](x, weight, None, list(strides), 0, extra, group, list(dilations))
    for axis, (before, after) in enumerate(_transpose_crop(node, x, full, strides, extra)):
        size = full.shape[axis + 2]
        full = pad(full, tuple((-before, -after) if i == axis else (0, 0) for i in range(rank)))
        if before + after >= size:
            node.refuse("the padding crops everything")
    return full if bias is None else full + bias.reshape([1, -1] + [1] * rank)


def _transpose_crop(
    node: Node, x: Tensor, full: Tensor, strides: tuple[int, ...], extra: list[int]
) -> list[tuple[int, int]]:
    """Return how much of each side of `full`, made without padding, is cut off."""
    rank, mode = len(strides), node.attr("auto_pad", "NOTSET") or "NOTSET"
    wanted = node.attr("output_shape")
    if wanted is None and mode in ("NOTSET", "VALID"):
        pads = (node.attr("pads") if mode == "NOTSET" else None) or [0] * (2 * rank)
        return [(pads[i], pads[i + rank]) for i in range(rank)]
    if wanted is None:
        wanted = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    crop = []
    for size, want in zip(full.shape[2:], wanted[-rank:], strict=True):
        total = size - want
        small = total // 2
        crop.append((total - small, small) if mode != "SAME_UPPER" else (small, total - small))
    return crop


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = node.attr("alpha", 1.0), node.attr("beta", 1.0)
    a = a.t() if node.attr("transA", 0) else a
    plain = alpha == 1 and beta == 1 and (c is None or c.dim() == 1) and a.is_floating_point()
    if plain and (c is None or c.shape[0] == b.shape[0 if node.attr("transB", 0) else 1]):
        return functional.linear(a, b if node.attr("transB", 0) else b.t(), c)
    product = a @ (b.t() if node.attr("transB", 0) else b)
    product = product if alpha == 1 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1 else beta * c)


def _batch_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    if node.attr("training_mode", 0):
        node.refuse("training mode; export the model in evaluation mode")
    eps = node.attr("epsilon", 1e-5)
    return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, eps)


def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, None, None, scale, bias, eps=node.attr("epsilon", 1e-5))


def _layer_norm(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor | tuple[Tensor, ...]:
    axis = node.attr("axis", -1) % x.dim()
    shape = list(x.shape[axis:])
    scale = scale.expand(shape)
    bias = None if bias is None else bias.expand(shape)
    eps = node.attr("epsilon", 1e-5)
    made = functional.layer_norm(x, shape, scale, bias, eps)
    if len([name for name in node.outputs if name]) == 1:
        return made
    axes = list(range(axis, x.dim()))
    mean = x.mean(axes, keepdim=True)
    spread = ((x - mean) * (x - mean)).mean(axes, keepdim=True)
    return made, mean, torch.rsqrt(spread + eps)


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups, eps = node.attr("num_groups"), node.attr("epsilon", 1e-5)
    if scale.shape[0] == groups != x.shape[1]:  # opset 18 scales whole groups
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return functional.group_norm(x, groups, scale, bias, eps)


def _lrn(node: Node, x: Tensor) -> Tensor:
    size, alpha = node.attr("size"), node.attr("alpha", 1e-4)
    before, after = (size - 1) // 2, size // 2
    at = torch.arange(x.shape[1])
    gap = at[None, :] - at[:, None]  # row: the channel that is summed into the column's window
    window = ((gap >= -before) & (gap <= after)).to(x.dtype)
    total = ((x * x).movedim(1, -1) @ window.t()).movedim(-1, 1)
    share = node.attr("bias", 1.0) + alpha / size * total
    return torch.div(x, torch.pow(share, node.attr("beta", 0.75)))


def _lp_norm(node: Node, x: Tensor) -> Tensor:
    axis, p = node.attr("axis", -1), node.attr("p", 2)
    size = x.abs().sum(axis, True) if p == 1 else (x * x).sum(axis, True).sqrt()
    return torch.where(size == 0, torch.zeros_like(x), x / size)


def _einsum(node: Node, *xs: Tensor) -> Tensor:
    return torch.einsum(node.attr("equation"), *xs)


OPS: dict[str, Callable[..., Any]] = {
    "BatchNormalization": _batch_norm,
    "Conv": convolve,
    "ConvTranspose": _conv_transpose,
    "Det": lambda _node, x: torch.linalg.det(x),
    "Einsum": _einsum,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
    "MatMul": lambda _node, a, b: torch.matmul(a, b),
}
