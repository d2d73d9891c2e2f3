"""RoiAlign: pools the values under boxes of an image, sampled between its pixels.

x [N, C, H, W], rois [R, 4] as left, top, right, bottom, batch [R] -> [R, C, height, width]. With
`ratio` 0 a bin has as many samples as it is pixels wide or high; boxes are taken to be no larger
than the image then, which holds for clipped ones.

Source: onnx.ai/onnx/operators, RoiAlign; its "max" is that of the four weighted corners, not of
what is interpolated.
"""

from math import ceil
from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor

from edgec_compiler.composites.library import composite

_Samples = tuple[Tensor, Tensor, Tensor]


def _samples(start: Tensor, extent: Tensor, bins: int, ratio: int, size: int) -> _Samples:
    """Return where one axis is sampled, [R, bins, most]; how often [R, 1, 1]; which are inside."""
    most = ratio if ratio > 0 else ceil(size / bins)
    step = (extent / bins)[:, None, None]
    counts = torch.full_like(step, most) if ratio > 0 else torch.ceil(step).clamp(0, most)
    place = torch.arange(most, dtype=start.dtype)
    offsets = torch.arange(bins, dtype=start.dtype)[:, None] * step
    at = start[:, None, None] + offsets + (place + 0.5) * step / counts.clamp(min=1)
    taken = place < counts
    inside = ((at >= -1) & (at <= size)).to(start.dtype)
    return at.clamp(0, size - 1), counts, taken.to(start.dtype).expand_as(at) * inside


def _mean_weights(at: Tensor, counts: Tensor, used: Tensor, size: int) -> Tensor:
    """Return how much of each pixel along one axis is in the mean of a bin, [R, bins, size]."""
    near = (1 - (at[..., None] - torch.arange(size, dtype=at.dtype)).abs()).clamp(min=0)
    return (near * used[..., None]).sum(2) / counts.clamp(min=1)


def _mean(x: Tensor, batch: Tensor, down: _Samples, across: _Samples) -> Tensor:
    rows = _mean_weights(*down, x.shape[2]).unsqueeze(1)
    columns = _mean_weights(*across, x.shape[3]).unsqueeze(1)
    images = x if x.shape[0] == 1 else x[batch]
    return rows @ (images @ columns.transpose(2, 3))


def _corners(at: Tensor, used: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return the pixel before and behind each place along one axis, [R, all], and its weight."""
    low = at.floor()
    high = (low + 1).clamp(max=size - 1)
    behind = at - low
    pairs = ((low, (1 - behind) * used), (high, behind * used))
    return [(pixel.flatten(1).to(torch.int64), weight.flatten(1)) for pixel, weight in pairs]


def _largest(x: Tensor, batch: Tensor, down: _Samples, across: _Samples) -> Tensor:
    (y, y_counts, y_used), (x_at, x_counts, x_used) = down, across
    count, channels, height, width = x.shape
    pixels = x.permute(1, 0, 2, 3).reshape(channels, count * height * width)
    first = batch.reshape(-1, 1, 1) * (height * width)
    found = None
    for row, row_weight in _corners(y, y_used, height):
        for column, column_weight in _corners(x_at, x_used, width):
            index = first + row[:, :, None] * width + column[:, None, :]
            taken = pixels.index_select(1, index.reshape(-1)).reshape(channels, *index.shape)
            value = taken * (row_weight[:, :, None] * column_weight[:, None, :])
            found = value if found is None else torch.maximum(found, value)
    assert found is not None  # noqa: S101  there are four corners
    found = found.reshape(channels, *y.shape, *x_at.shape[1:])
    counted = _counted(y, y_counts)[:, :, :, None, None] & _counted(x_at, x_counts)[:, None, None]
    found = torch.where(counted, found, -torch.inf).amax((3, 5)).transpose(0, 1)
    return torch.where(torch.isinf(found), torch.zeros_like(found), found)


def _counted(at: Tensor, counts: Tensor) -> Tensor:
    return (torch.arange(at.shape[2], dtype=at.dtype) < counts).expand_as(at)


def _roi_align(
    x: Tensor,
    rois: Tensor,
    batch: Tensor,
    height: int,
    width: int,
    ratio: int,
    scale: float,
    half_pixel: bool,
    largest: bool,
) -> Tensor:
    left, top, right, bottom = (rois * scale - (0.5 if half_pixel else 0)).unbind(1)
    wide, high = right - left, bottom - top
    if not half_pixel:
        wide, high = wide.clamp(min=1), high.clamp(min=1)
    down = _samples(top, high, height, ratio, x.shape[2])
    across = _samples(left, wide, width, ratio, x.shape[3])
    return (_largest if largest else _mean)(x, batch, down, across)


ROI_ALIGN = composite(
    "roi_align(Tensor x, Tensor rois, Tensor batch, int height, int width, int ratio, "
    "float scale, bool half_pixel, bool largest) -> Tensor",
    _roi_align,
)


def write_roi_align(
    x: Any,
    rois: Any,
    batch: Any,
    height: int,
    width: int,
    ratio: int,
    scale: float,
    half_pixel: bool,
    largest: bool,
) -> Any:
    """Return the ONNX node of a `ROI_ALIGN`."""
    return opset18.RoiAlign(
        x,
        rois,
        batch,
        coordinate_transformation_mode="half_pixel" if half_pixel else "output_half_pixel",
        mode="max" if largest else "avg",
        output_height=height,
        output_width=width,
        sampling_ratio=ratio,
        spatial_scale=scale,
    )
