"""The layers with weights of a model, in one shape for every kind of layer and file format.

A convolution is a matrix product of patches and filters, so every layer here is a batch of them:
G groups, each with R rows of K weights. Dense layers and plain convolutions have G = 1, a depthwise
convolution has a group per channel. K runs over (kernel height, kernel width, channel of the
group), whatever the file's own order is. There is no I/O and no file format here.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]

_ROWS_PER_SAMPLE = 1024  # patches of one sample that a large image adds to the second moments


@dataclass(frozen=True, slots=True)
class Signature:
    """What two layers must share for the weights of one to make sense in the other."""

    op: str  # "conv" | "dense"
    shape: tuple[int, int, int]  # G, R, K
    kernel: tuple[int, int]


@dataclass(frozen=True, slots=True)
class QuantisedLayer:
    """A layer of an int8 model: the real weight is ``scales * q``."""

    name: str
    signature: Signature
    q: Int8  # [G, R, K]
    scales: Singles  # [G, R], > 0
    per_tensor: bool  # one scale for all rows
    input_scale: np.float32  # of the activations that it reads
    bias: Ints | None  # [G, R], in steps of input_scale * scales; int32 in the file

    @property
    def limit(self) -> int:
        """The largest magnitude that this model's quantiser gives to a weight, 127 or less."""
        return int(np.abs(self.q.astype(np.int16)).max(initial=1))


@dataclass(frozen=True, slots=True)
class Window:
    """Where a convolution's patches lie in its input, which is [N, H, W, C]."""

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] | None = (0, 0, 0, 0)  # top, left, bottom, right; None: SAME

    def patches(self, images: Array, groups: int, offset: int) -> Singles:
        """Return the patches of ``images`` [N, H, W, C] as [G, P, kh * kw * (C / G)].

        Of a large image only every n-th patch is taken, beginning at `offset` modulo n.
        """
        top, left, bottom, right = self.pads or self._same(images.shape[1], images.shape[2])
        padded = np.pad(images, ((0, 0), (top, bottom), (left, right), (0, 0)))
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        views = sliding_window_view(padded, (reach[0], reach[1]), axis=(1, 2))
        views = views[
            :, :: self.strides[0], :: self.strides[1], :, :: self.dilations[0], :: self.dilations[1]
        ]
        count, high, wide, channels, kh, kw = views.shape
        flat = np.arange(count * high * wide)
        step = max(1, len(flat) // (_ROWS_PER_SAMPLE * count))
        n, y, x = np.unravel_index(flat[offset % step :: step], (count, high, wide))
        taken = views[n, y, x].reshape(len(n), groups, channels // groups, kh, kw)
        ordered = taken.transpose(1, 0, 3, 4, 2)  # G, P, kh, kw, C/G
        return np.ascontiguousarray(ordered, np.float32).reshape(groups, len(n), -1)

    def _same(self, high: int, wide: int) -> tuple[int, int, int, int]:
        total = []
        for size, k, s, d in zip(
            (high, wide), self.kernel, self.strides, self.dilations, strict=True
        ):
            total.append(max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size))
        top, left = total[0] // 2, total[1] // 2
        return top, left, total[0] - top, total[1] - left


@dataclass(frozen=True, slots=True)
class FloatLayer:
    """The same layer before quantisation."""

    weights: Floats  # [G, R, K]
    bias: Floats | None  # [G, R]
    reads: str  # the tensor of the float model that holds its input
    window: Window | None  # None: a dense layer, whose input ends in K
    channels_first: bool = False  # its input is [N, C, H, W] or [N, C, W]

    def rows(self, values: Array, offset: int) -> Singles:
        """Return the inputs [G, P, K] of the matrix product in one batch of input `values`."""
        groups = self.weights.shape[0]
        if self.window is not None:
            images = np.moveaxis(values, 1, -1) if self.channels_first else values
            images = images[:, None] if images.ndim == 3 else images  # 1-D: one row high
            return self.window.patches(images, groups, offset)
        flat = np.ascontiguousarray(values, np.float32).reshape(1, -1, self.weights.shape[2])
        step = max(1, flat.shape[1] // _ROWS_PER_SAMPLE)
        return flat[:, offset % step :: step]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer whose weights are to be requantised: float, ordinary int8, and deployed int8."""

    index: int  # in the quantised model's list of layers
    exact: FloatLayer
    ordinary: QuantisedLayer
    deployed: QuantisedLayer


@dataclass(frozen=True, slots=True)
class Values:
    """New constants of one layer."""

    q: Int8  # [G, R, K]
    scales: Singles  # [G, R]
    bias: Ints | None  # [G, R]
