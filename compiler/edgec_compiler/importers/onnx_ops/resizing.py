"""Resize and its predecessor Upsample, and GridSample.

Where ONNX's rule is torch's own, torch's operator is used, which converters know. Every other rule
becomes one matrix per axis, made here. A crop (tf_crop_and_resize) must be known at compile time.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from edgec_compiler.importers.onnx_node import Node

_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}
_ROUNDING: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
Floats = npt.NDArray[np.float64]
Span = tuple[float, float]  # the part of an axis that is resized; (0, 1) is all of it
_CROPPING = "tf_crop_and_resize"


def _target_size(node: Node, x: Tensor) -> tuple[list[int], list[float]]:
    """Return the output size and the scale of every axis, from sizes or scales."""
    scales_at = 2 if node.op == "Resize" and node.opset >= 11 else 1
    axes = node.attr("axes") or list(range(x.dim()))
    size, scales = list(x.shape), [1.0] * x.dim()
    if node.has(3):
        for axis, wanted in zip(axes, node.ints(3, "size"), strict=True):
            size[axis], scales[axis] = wanted, wanted / x.shape[axis]
        policy = node.attr("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            pick = min if policy == "not_larger" else max
            scale = pick(scales[axis] for axis in axes)
            for axis in axes:
                size[axis], scales[axis] = int(np.floor(scale * x.shape[axis] + 0.5)), scale
        return size, scales
    given = node.attr("scales") or np.ravel(node.constant(scales_at, "scale")).tolist()
    spans = _spans(node, x)
    for axis, scale in zip(axes, given, strict=True):
        part = spans[axis][1] - spans[axis][0]
        size[axis], scales[axis] = int(np.floor(x.shape[axis] * part * scale)), float(scale)
    return size, scales


def _spans(node: Node, x: Tensor) -> list[Span]:
    """Return which part of every axis is resized."""
    spans = [(0.0, 1.0)] * x.dim()
    if _rule(node) == _CROPPING:
        axes = node.attr("axes") or list(range(x.dim()))
        given = [float(one) for one in np.ravel(node.constant(1, "region"))]
        for number, axis in enumerate(axes):
            spans[axis] = given[number], given[number + len(axes)]
    return spans


def _rule(node: Node) -> str:
    if node.op == "Upsample" or node.opset < 11:
        return "asymmetric"
    return str(node.attr("coordinate_transformation_mode", "half_pixel"))


def _resize(node: Node, x: Tensor, *_rest: Tensor | None) -> Tensor:
    size, scales = _target_size(node, x)
    spans, shape = _spans(node, x), x.shape
    if node.attr("mode", "nearest") == "nearest":
        made = _nearest(node, x, size, scales, spans)
    elif (own := _torch_mode(node, x, size, scales)) is not None:
        corners = _rule(node) == "align_corners"
        made = functional.interpolate(x, size[2:], mode=own, align_corners=corners)
    else:
        made = x
        for axis, (old, new, scale) in enumerate(zip(shape, size, scales, strict=True)):
            if old != new or spans[axis] != (0, 1):
                matrix = torch.from_numpy(_matrix(node, old, new, scale, spans[axis])).to(x.dtype)
                made = (made.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
    return _with_outside(node, made, shape, scales, spans)


def _with_outside(
    node: Node, made: Tensor, shape: torch.Size, scales: list[float], spans: list[Span]
) -> Tensor:
    """Return `made` with the value that the node has for what lies outside of the image."""
    for axis, span in enumerate(spans):
        if span == (0, 1):
            continue
        old = shape[axis]
        at = _coordinates(node, old, made.shape[axis], scales[axis], span)
        outside = (at < 0) | (at > old - 1)
        if outside.any():
            rows = torch.from_numpy(outside).reshape(
                [-1 if i == axis else 1 for i in range(made.dim())]
            )
            value = torch.tensor(node.attr("extrapolation_value", 0.0), dtype=made.dtype)
            made = torch.where(rows, value, made)
    return made


def _torch_mode(node: Node, x: Tensor, size: list[int], scales: list[float]) -> str | None:
    """Return the mode in which torch does just what `node` says, or None."""
    rule, cubic = _rule(node), node.attr("mode") == "cubic"
    exact = all(new / old == s for old, new, s in zip(x.shape, size, scales, strict=True))
    same = rule == "half_pixel" or (rule == "pytorch_half_pixel" and min(size[2:], default=0) > 1)
    plain = not node.attr("antialias", 0) and not node.attr("exclude_outside", 0)
    spatial = x.dim() in _LINEAR and size[:2] == list(x.shape[:2])
    corners = rule == "align_corners" and min(size[2:], default=0) > 1
    if not (plain and spatial and exact and (same or corners)):
        return None
    if cubic:
        return "bicubic" if x.dim() == 4 and node.attr("cubic_coeff_a", -0.75) == -0.75 else None
    return _LINEAR[x.dim()]


def _coordinates(node: Node, old: int, new: int, scale: float, span: Span) -> Floats:
    """Return where each new element lies among the old ones."""
    at = np.arange(new, dtype=np.float64)
    match _rule(node):
        case "align_corners":
            # by the exact length, as ONNX has it, which `new` is the floor of
            last = old * scale - 1
            return at * (old - 1) / last if last else at * 0
        case "asymmetric":
            return at / scale
        case "half_pixel":
            return (at + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (at + 0.5) / scale - 0.5 if new > 1 else at * 0
        case "half_pixel_symmetric":
            center = old / 2 * (1 - new / (old * scale))
            return center + (at + 0.5) / scale - 0.5
        case "tf_crop_and_resize":
            start, end = span
            if new == 1:
                return at + 0.5 * (start + end) * (old - 1)
            return start * (old - 1) + at * (end - start) * (old - 1) / (new - 1)
        case rule:
            node.refuse(f"{rule} coordinates")


def _kernel(node: Node, distance: Floats) -> Floats:
    """Return the weight of an element at `distance`, in old elements."""
    t = np.abs(distance)
    if node.attr("mode") == "linear":
        linear: Floats = np.maximum(1 - t, 0)
        return linear
    a = node.attr("cubic_coeff_a", -0.75)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0))


def _matrix(node: Node, old: int, new: int, scale: float, span: Span) -> Floats:
    """Return W [new, old] such that resizing an axis is W times it."""
    at = _coordinates(node, old, new, scale, span)
    shrink = min(scale, 1.0) if node.attr("antialias", 0) else 1.0
    reach = int(np.ceil((2 if node.attr("mode") == "cubic" else 1) / shrink)) + 1
    taps = np.floor(at)[:, None] + np.arange(-reach, reach + 1)
    weights = _kernel(node, (taps - at[:, None]) * shrink)
    if node.attr("exclude_outside", 0):
        weights = np.where((taps < 0) | (taps >= old), 0, weights)
    weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(taps, 0, old - 1).astype(int)), weights)
    return matrix


def _nearest(
    node: Node, x: Tensor, size: list[int], scales: list[float], spans: list[Span]
) -> Tensor:
    """Pick rows by the coordinate rule; where that is torch's own nearest, use torch's."""
    picks = [
        _nearest_rows(node, old, new, scale, span)
        for old, new, scale, span in zip(x.shape, size, scales, spans, strict=True)
    ]
    own = [np.floor(np.arange(n) * (x.shape[i] / n)).astype(np.int64) for i, n in enumerate(size)]
    spatial_only = x.dim() in _LINEAR and size[:2] == list(x.shape[:2])
    if spatial_only and all(np.array_equal(a, b) for a, b in zip(picks, own, strict=True)):
        return functional.interpolate(x, size[2:], mode="nearest")
    for axis, rows in enumerate(picks):
        if not np.array_equal(rows, np.arange(x.shape[axis])):
            x = x.index_select(axis, torch.from_numpy(rows))
    return x


def _nearest_rows(
    node: Node, old: int, new: int, scale: float, span: Span
) -> npt.NDArray[np.int64]:
    modern = node.op == "Resize" and node.opset >= 11
    rounding = node.attr("nearest_mode", "round_prefer_floor") if modern else "floor"
    if rounding not in _ROUNDING:
        node.refuse(f"nearest_mode {rounding}")
    rounded = _ROUNDING[rounding](_coordinates(node, old, new, scale, span))
    rows: npt.NDArray[np.int64] = np.clip(rounded, 0, old - 1).astype(np.int64)
    return rows


def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(m := node.attr("mode", "linear"), m)
    padding = node.attr("padding_mode", "zeros")
    corners = bool(node.attr("align_corners", 0))
    return functional.grid_sample(x, grid, mode, padding, corners)


OPS: dict[str, Callable[..., Any]] = {
    "GridSample": _grid_sample,
    "Resize": _resize,
    "Upsample": _resize,
}
