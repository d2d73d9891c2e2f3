"""What detectors are made of: boxes that are selected, values pooled under boxes, bent kernels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgec_compiler.composites.roi_align import ROI_ALIGN
from edgec_compiler.composites.selection import NMS
from edgec_compiler.importers.onnx_node import Node


def _roi_align(node: Node, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    result: Tensor = ROI_ALIGN(
        x,
        rois,
        batch,
        node.attr("output_height", 1),
        node.attr("output_width", 1),
        node.attr("sampling_ratio", 0),
        node.attr("spatial_scale", 1.0),
        node.attr("coordinate_transformation_mode", default) == "half_pixel",
        node.attr("mode", "avg") == "max",
    )
    return result


def _nms(node: Node, boxes: Tensor, scores: Tensor, *rest: Tensor | None) -> Tensor:
    _, iou, least = (*rest, None, None, None)[:3]
    most = node.ints(2, "max_output_boxes_per_class")[0] if node.has(2) else 0
    limit = torch.zeros(1) if iou is None else iou
    result: Tensor = NMS(boxes, scores, most, limit, least, bool(node.attr("center_point_box", 0)))
    return result


def _between(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Return the values of x [N, C, H, W] at the places y, at [N, P]; outside it is zero."""
    height, width = x.shape[2:]
    pixels = x.flatten(2)
    low_y, low_x = y.floor(), at.floor()
    made = torch.zeros((), dtype=x.dtype)
    for row, row_weight in ((low_y, 1 - (y - low_y)), (low_y + 1, y - low_y)):
        for column, weight in ((low_x, 1 - (at - low_x)), (low_x + 1, at - low_x)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = torch.where(inside, row * width + column, 0.0)
            wide = index.to(torch.int64).unsqueeze(1).expand(-1, x.shape[1], -1)
            part = (row_weight * weight * inside.to(x.dtype)).unsqueeze(1)
            made = made + pixels.gather(2, wide) * part
    return made


def _deform_conv(
    node: Node,
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    if x.dim() != 4:
        node.refuse("only images of two axes are supported")
    groups, bent = node.attr("group", 1), node.attr("offset_group", 1)
    ones = [1, 1]
    strides, dilations = node.attr("strides") or ones, node.attr("dilations") or ones
    pads = node.attr("pads") or [0] * 4
    count, channels = x.shape[:2]
    kernel, size = weight.shape[2:], offset.shape[2:]
    taps = kernel[0] * kernel[1]
    moves = offset.reshape(count * bent, *kernel, 2, *size)
    places = []
    for axis in (0, 1):
        taken = torch.arange(kernel[axis], dtype=x.dtype) * dilations[axis] - pads[axis]
        steps = torch.arange(size[axis], dtype=x.dtype) * strides[axis]
        base = taken.reshape(-1, 1, 1, 1) if axis == 0 else taken.reshape(-1, 1, 1)
        where = steps.reshape(-1, 1) if axis == 0 else steps
        places.append((moves[:, :, :, axis] + base + where).reshape(count * bent, -1))
    found = _between(x.reshape(count * bent, channels // bent, *x.shape[2:]), *places)
    if mask is not None:
        found = found * mask.reshape(count * bent, 1, -1)
    columns = found.reshape(count, groups, channels // groups * taps, size[0] * size[1])
    made = weight.reshape(groups, weight.shape[0] // groups, -1) @ columns
    made = made.reshape(count, weight.shape[0], *size)
    return made if bias is None else made + bias.reshape(-1, 1, 1)


OPS: dict[str, Callable[..., Any]] = {
    "DeformConv": _deform_conv,
    "NonMaxSuppression": _nms,
    "RoiAlign": _roi_align,
}
