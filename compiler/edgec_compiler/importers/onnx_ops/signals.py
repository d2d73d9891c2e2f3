"""Fourier transforms and mel weights, as products with constant matrices that any runtime knows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgec_compiler.importers.onnx_node import Node
from edgec_compiler.importers.onnx_ops.dtypes import torch_dtype


def _basis(length: int, rows: int, like: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Return cos and sin [length, rows] of the transform; `inverse` flips the sign and scales."""
    turns = np.outer(np.arange(length), np.arange(rows)) % length
    angle = 2 * np.pi * turns / length
    share = 1 / length if inverse else 1.0
    sign = 1.0 if inverse else -1.0
    parts = (share * np.cos(angle), sign * share * np.sin(angle))
    real, imaginary = (torch.from_numpy(part).to(like.dtype) for part in parts)
    return real, imaginary


def _transform(x: Tensor, *, inverse: bool, onesided: bool) -> Tensor:
    """Transform x [..., length, 1 or 2] along its last axis but one; return [..., rows, 2]."""
    length = x.shape[-2]
    rows = length // 2 + 1 if onesided else length
    real, imaginary = _basis(length, rows, x, inverse=inverse)
    a = x[..., 0]
    first, second = a @ real, a @ imaginary
    if x.shape[-1] == 2:
        b = x[..., 1]
        first, second = first - b @ imaginary, second + b @ real
    return torch.stack([first, second], -1)


def _real_inverse(x: Tensor, length: int) -> Tensor:
    """Return the real values [..., length, 1] whose one-sided transform is x [..., rows, 2]."""
    rows = length // 2 + 1
    x = torch.nn.functional.pad(x[..., :rows, :], (0, 0, 0, max(rows - x.shape[-2], 0)))
    real, imaginary = _basis(length, rows, x, inverse=True)
    twice = torch.full((rows,), 2.0, dtype=x.dtype)  # each row but the ends stands for its mirror
    twice[0] = 1
    if length % 2 == 0:
        twice[-1] = 1
    a, b = x[..., 0] * twice, x[..., 1] * twice
    return (a @ real.T - b @ imaginary.T).unsqueeze(-1)


def _dft(node: Node, x: Tensor, *_rest: Tensor | None) -> Tensor:
    inverse, onesided = bool(node.attr("inverse", 0)), bool(node.attr("onesided", 0))
    if node.opset >= 20:
        axis = node.ints(2, "axis")[0] if node.has(2) else -2
    else:
        axis = node.attr("axis", 1)
    axis %= x.dim()
    x = x.movedim(axis, -2)
    if inverse and onesided:
        length = node.ints(1, "length")[0] if node.has(1) else 2 * (x.shape[-2] - 1)
        return _real_inverse(x, length).movedim(-2, axis)
    if node.has(1):
        length, now = node.ints(1, "length")[0], x.shape[-2]
        x = x[..., :length, :]
        x = torch.nn.functional.pad(x, (0, 0, 0, max(length - now, 0)))
    return _transform(x, inverse=inverse, onesided=onesided).movedim(-2, axis)


def _stft(node: Node, x: Tensor, _step: Tensor, window: Tensor | None, *_size: Tensor) -> Tensor:
    step = node.ints(1, "frame_step")[0]
    if node.has(3):
        size = node.ints(3, "frame_length")[0]
    elif window is not None:
        size = window.shape[0]
    else:
        node.refuse("neither a window nor a frame length is given")
    onesided = bool(node.attr("onesided", 1))
    if x.dim() == 3 and x.shape[-1] == 2 and onesided:
        node.refuse("a one-sided transform of complex values")
    signal = x if x.dim() == 3 else x.unsqueeze(-1)
    frames = signal.unfold(1, size, step).transpose(-1, -2)  # [batch, frames, size, 1 or 2]
    if window is not None:
        frames = frames * window.reshape(-1, 1)
    return _transform(frames, inverse=False, onesided=onesided)


def _mel_weights(node: Node, *_given: Tensor) -> Tensor:
    """Return triangles [bins // 2 + 1, mels] as ONNX's reference makes them."""
    mels, length, rate = (int(node.ints(i, "size")[0]) for i in range(3))
    edges = [float(node.constant(i, "frequency")) for i in (3, 4)]
    low, high = (2595 * np.log10(1 + edge / 700) for edge in edges)
    step = (high - low) / (mels + 2)
    points = 700 * (np.power(10, (np.arange(mels + 2) * step + low) / 2595) - 1)
    bins = ((length + 1) * points // rate).astype(int)
    rows = length // 2 + 1
    made = np.zeros((rows, mels))
    for i in range(mels):
        lower, center, upper = bins[i : i + 3]
        if center == lower:
            made[center, i] = 1
        for j in range(lower, center + 1):
            if center != lower:
                made[j, i] = (j - lower) / (center - lower)
        for j in range(center, upper):
            if upper != center:
                made[j, i] = (upper - j) / (upper - center)
    return torch.from_numpy(made).to(torch_dtype(node, node.attr("output_datatype", 1)))


OPS: dict[str, Callable[..., Any]] = {
    "DFT": _dft,
    "MelWeightMatrix": _mel_weights,
    "STFT": _stft,
}
