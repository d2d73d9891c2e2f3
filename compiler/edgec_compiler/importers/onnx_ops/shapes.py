"""Operators that move elements without computing: reshape, transpose, concat, pad, ..."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgec_compiler.importers.onnx_node import Node
from edgec_compiler.importers.onnx_ops.dtypes import torch_dtype


def _reshape(node: Node, x: Tensor, *_shape: Tensor) -> Tensor:
    wanted = node.ints_from("shape", 1) or []
    if not node.attr("allowzero", 0):
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.attr("axis", 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1) if x.numel() else x


def _squeeze(node: Node, x: Tensor, *_axes: Tensor) -> Tensor:
    axes = node.ints_from("axes", 1)
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(node: Node, x: Tensor, *_axes: Tensor) -> Tensor:
    axes = node.ints_from("axes", 1) or []
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.attr("perm", list(range(x.dim()))[::-1]))


def _concat(node: Node, *xs: Tensor) -> Tensor:
    return torch.cat(xs, node.attr("axis", 1))


def _split(node: Node, x: Tensor, *_sizes: Tensor) -> tuple[Tensor, ...]:
    axis = node.attr("axis", 0)
    sizes = node.ints_from("split", 1)
    if sizes is None:
        parts = node.attr("num_outputs", len(node.outputs))
        step = -(-x.shape[axis] // parts)
        sizes = [step] * (parts - 1) + [x.shape[axis] - step * (parts - 1)]
    return torch.split(x, sizes, axis)


def _slice(node: Node, x: Tensor, *_bounds: Tensor) -> Tensor:
    starts, ends = node.ints_from("starts", 1) or [], node.ints_from("ends", 2) or []
    axes = node.ints_from("axes", 3) or list(range(len(starts)))
    steps = node.ints_from("steps", 4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, stride = slice(start, end, step).indices(x.shape[axis])
        if stride > 0:
            index = [slice(None)] * (axis % x.dim()) + [slice(first, max(first, last), stride)]
            x = x[tuple(index)]
        else:
            chosen = torch.arange(first, last, stride, device=x.device)
            x = x.index_select(axis, chosen)
    return x


def _expand(node: Node, x: Tensor, _shape: Tensor) -> Tensor:
    return x.expand(list(np.broadcast_shapes(tuple(x.shape), tuple(node.ints(1, "shape")))))


def _tile(node: Node, x: Tensor, *_repeats: Tensor) -> Tensor:
    return x.repeat(node.ints(1, "repeats"))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(node: Node, x: Tensor, *_rest: Tensor | None) -> Tensor:
    pads = node.ints_from("pads", 1) or []
    axes = node.ints_from("axes", 3) or list(range(len(pads) // 2))
    around = [(0, 0)] * x.dim()
    for i, axis in enumerate(axes):
        around[axis] = (pads[i], pads[i + len(axes)])
    mode = _PAD_MODES.get(node.attr("mode", "constant"))
    if mode is None:
        node.refuse(f"mode {node.attr('mode')}")
    if mode == "constant":
        fill = node.attr("value", 0.0)
        if node.has(2):
            fill = node.constant(2, "fill value").item()
        return functional.pad(x, [n for pair in reversed(around) for n in pair], value=fill)
    return _pad_by_index(x, around, mode)


def _pad_by_index(x: Tensor, around: list[tuple[int, int]], mode: str) -> Tensor:
    """Pad by picking rows: any rank, and negative amounts crop."""
    how = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    for axis, (before, after) in enumerate(around):
        if before or after:
            rows: Any = np.arange(x.shape[axis])
            rows = np.pad(rows, (max(before, 0), max(after, 0)), mode=how)  # type: ignore[call-overload]
            rows = rows[max(-before, 0) : len(rows) - max(-after, 0)]
            x = x.index_select(axis, torch.from_numpy(rows))
    return x


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[node.attr("start", 0) : node.attr("end")], dtype=torch.int64)


def _constant_of_shape(node: Node, _shape: Tensor) -> Tensor:
    value = node.attr("value")
    fill = np.zeros(1, np.float32) if value is None else value
    return torch.from_numpy(np.full(node.ints(0, "shape"), fill.ravel()[0], fill.dtype))


def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    for index in range(3):
        node.constant(index, "range")
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    b = node.attr("blocksize")
    if node.attr("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, b)
    n, c, h, w = x.shape
    x = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // (b * b), h * b, w * b)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    b = node.attr("blocksize")
    if node.attr("mode", "DCR") == "CRD":
        return functional.pixel_unshuffle(x, b)
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * b * b, h // b, w // b)


def _col2im(node: Node, x: Tensor, _image: Tensor, _block: Tensor) -> Tensor:
    image, block = node.ints(1, "image shape"), node.ints(2, "block shape")
    pads = node.attr("pads") or [0] * (2 * len(image))
    ones = [1] * len(image)
    dilations, strides = node.attr("dilations") or ones, node.attr("strides") or ones
    if len(image) != 2 or pads[:2] != pads[2:]:
        return _placed_blocks(x, image, block, dilations, strides, pads)
    window = (tuple(block), tuple(dilations), tuple(pads[:2]), tuple(strides))
    return functional.fold(x, tuple(image), *window)


def _placed_blocks(
    x: Tensor,
    image: list[int],
    block: list[int],
    dilations: list[int],
    strides: list[int],
    pads: list[int],
) -> Tensor:
    """Add the columns x [N, C * block, places] into an image of any number of axes."""
    padded = [n + pads[i] + pads[i + len(image)] for i, n in enumerate(image)]
    where = torch.zeros(1, 1, dtype=torch.int64)  # [taps, places] into the padded image, flat
    for axis, size in enumerate(padded):
        reach = dilations[axis] * (block[axis] - 1)
        taps = torch.arange(block[axis]) * dilations[axis]
        places = torch.arange(0, size - reach, strides[axis])
        here = taps[:, None, None] + places  # [block, 1, places]
        where = (where[:, None, :, None] * size + here.unsqueeze(0)).flatten(2).flatten(0, 1)
    taps_count = where.shape[0]
    values = x.reshape(x.shape[0], -1, taps_count * where.shape[1])
    flat = torch.zeros(*values.shape[:2], prod(padded), dtype=x.dtype)
    made = flat.index_add(2, where.reshape(-1), values).reshape(*values.shape[:2], *padded)
    for axis, size in enumerate(image):
        made = made.narrow(axis + 2, pads[axis], size)
    return made


def _trilu(node: Node, x: Tensor, _k: Tensor | None = None) -> Tensor:
    diagonal = node.ints(1, "diagonal")[0] if node.has(1) else 0
    return torch.triu(x, diagonal) if node.attr("upper", 1) else torch.tril(x, diagonal)


def _eye_like(node: Node, x: Tensor) -> Tensor:
    element_type = node.attr("dtype")
    dtype = x.dtype if element_type is None else torch_dtype(node, element_type)
    k, (rows, columns) = node.attr("k", 0), x.shape
    distance = torch.arange(columns)[None, :] - torch.arange(rows)[:, None]
    return torch.eq(distance, k).to(dtype)


def _reverse_sequence(node: Node, x: Tensor, _lengths: Tensor) -> Tensor:
    time, batch = node.attr("time_axis", 0), node.attr("batch_axis", 1)
    moved = x.movedim((batch, time), (0, 1))
    rows = []
    for row, length in zip(moved, node.ints(1, "sequence_lens"), strict=True):
        rows.append(torch.cat([row[:length].flip(0), row[length:]]))
    return torch.stack(rows).movedim((0, 1), (batch, time))


OPS: dict[str, Callable[..., Any]] = {
    "Col2Im": _col2im,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": _eye_like,
    "Flatten": _flatten,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ReverseSequence": _reverse_sequence,
    "Shape": _shape,
    "Size": lambda _node, x: torch.tensor(x.numel(), dtype=torch.int64),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
