"""Pooling over one, two or three spatial axes, and global pooling."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgec_compiler.importers.onnx_node import Node
from edgec_compiler.importers.onnx_ops.padding import Pads, pad, pads_of, spatial

_MAX: dict[int, Callable[..., Any]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}
_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_CONV: dict[int, Callable[..., Tensor]] = {
    1: functional.conv1d,
    2: functional.conv2d,
    3: functional.conv3d,
}
_ADAPTIVE: dict[int, Callable[..., Tensor]] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


def _windows(
    node: Node, x: Tensor
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Pads]:
    """Return kernel, strides, dilations and pads; ceil_mode is turned into padding after."""
    kernel = tuple(node.attr("kernel_shape"))
    strides = spatial(node, "strides", len(kernel))
    dilations = spatial(node, "dilations", len(kernel))
    pads = pads_of(node, x, kernel)
    if node.attr("ceil_mode", 0):
        pads = tuple(
            _ceil(size, *window)
            for size, window in zip(
                x.shape[2:], zip(kernel, strides, dilations, pads, strict=True), strict=True
            )
        )
    return kernel, strides, dilations, pads


def _ceil(size: int, k: int, s: int, d: int, pads: tuple[int, int]) -> tuple[int, int]:
    """Return `pads` grown so that flooring counts the last, partial window that starts inside."""
    before, after = pads
    span = size + before + after - ((k - 1) * d + 1)
    count = -(-span // s) + 1
    if (count - 1) * s >= size + before:
        count -= 1
    return before, max(after, (count - 1) * s + (k - 1) * d + 1 - size - before)


def _max_pool(node: Node, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    kernel, strides, dilations, pads = _windows(node, x)
    rank = len(kernel)
    if len(node.outputs) > 1 and node.outputs[1]:
        return _max_pool_places(node, x)
    if all(b == a <= k // 2 for (b, a), k in zip(pads, kernel, strict=True)):
        padding = [before for before, _ in pads]
        even: Tensor = _MAX[rank](x, list(kernel), list(strides), padding, list(dilations))
        return even
    low = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    made: Tensor = _MAX[rank](pad(x, pads, low), list(kernel), list(strides), 0, list(dilations))
    return made


def _max_pool_places(node: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the maxima and where they lie in the whole of x, counted through."""
    kernel, strides, dilations, pads = _windows(node, x)
    if any(
        before != after or before > k // 2 for (before, after), k in zip(pads, kernel, strict=True)
    ):
        node.refuse("indices with uneven padding")
    if node.attr("storage_order", 0) and len(kernel) != 2:
        node.refuse("indices in column order over other than two axes")
    padding = [before for before, _ in pads]
    made, places = _MAX[len(kernel)](
        x, list(kernel), list(strides), padding, list(dilations), return_indices=True
    )
    if node.attr("storage_order", 0):
        height, width = x.shape[2:]
        places = torch.remainder(places, width) * height + torch.div(
            places, width, rounding_mode="floor"
        )
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape(x.shape[:2] + (1,) * len(kernel))
    return made, places + planes * int(x[0, 0].numel())


def _max_unpool(node: Node, x: Tensor, places: Tensor, *_shape: Tensor) -> Tensor:
    kernel = node.attr("kernel_shape")
    strides = spatial(node, "strides", len(kernel))
    pads = node.attr("pads") or [0] * (2 * len(kernel))
    inner = [
        (size - 1) * s + k - pads[i] - pads[i + len(kernel)]
        for i, (size, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    shape = list(x.shape[:2]) + inner
    flat = torch.zeros(math.prod(shape), dtype=x.dtype)
    made = flat.scatter(0, places.reshape(-1), x.reshape(-1)).reshape(shape)
    if not node.has(2):
        return made
    wanted = node.ints(2, "output shape")
    more = [want - size for want, size in zip(wanted[2:], inner, strict=True)]
    return functional.pad(made, [n for extra in reversed(more) for n in (0, extra)])


def _sums(x: Tensor, kernel: tuple[int, ...], strides: tuple[int, ...], dilations: Any) -> Tensor:
    """Return the sum over each window of x [N, C, *spatial], which may be dilated."""
    planes = x.reshape(x.shape[0] * x.shape[1], 1, *x.shape[2:])
    ones = torch.ones((1, 1, *kernel), dtype=x.dtype)
    total = _CONV[len(kernel)](planes, ones, None, list(strides), 0, list(dilations))
    return total.reshape(*x.shape[:2], *total.shape[2:])


def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, pads = _windows(node, x)
    rank, whole = len(kernel), bool(node.attr("count_include_pad", 0))
    dilated = any(d != 1 for d in dilations)
    average = _AVERAGE[rank]
    no_padding = not any(n for pair in pads for n in pair)
    even = all(b == a <= k // 2 for (b, a), k in zip(pads, kernel, strict=True))
    if not dilated and (no_padding or (even and not node.attr("ceil_mode", 0))):
        padding = [before for before, _ in pads]
        return average(x, list(kernel), list(strides), padding, count_include_pad=whole)
    # A cell counts if it holds data, or padding that was asked for (not ceil_mode's overhang).
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype)
    asked = pads_of(node, x, kernel)
    grown = tuple((0, after - a) for (_, after), (_, a) in zip(pads, asked, strict=True))
    counted = pad(pad(ones, asked, 1.0 if whole else 0.0), grown)
    if dilated:
        window = (kernel, strides, dilations)
        return _sums(pad(x, pads), *window) / _sums(counted, *window)
    share = average(counted, list(kernel), list(strides))
    return average(pad(x, pads), list(kernel), list(strides)) / share


def _lp_pool(node: Node, x: Tensor) -> Tensor:
    kernel, strides, dilations, pads = _windows(node, x)
    p = node.attr("p", 2)
    return torch.pow(_sums(pad(x, pads).abs() ** p, kernel, strides, dilations), 1 / p)


def _global_average(_node: Node, x: Tensor) -> Tensor:
    return _ADAPTIVE[x.dim() - 2](x, 1) if 3 <= x.dim() <= 5 else x


def _global_max(_node: Node, x: Tensor) -> Tensor:
    return torch.amax(x, list(range(2, x.dim())), keepdim=True)


def _global_lp(node: Node, x: Tensor) -> Tensor:
    p = node.attr("p", 2)
    return torch.pow((x.abs() ** p).sum(list(range(2, x.dim())), keepdim=True), 1 / p)


OPS: dict[str, Callable[..., Any]] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average,
    "GlobalLpPool": _global_lp,
    "GlobalMaxPool": _global_max,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
}
