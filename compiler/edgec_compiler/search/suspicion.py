"""A cheap guess of which layers quantisation hurts: one float run over a few samples, no variants.

What one scale for a whole tensor does to each of its channels: the noise of rounding to its steps
(s^2 / 12), over the channel's own variance. A channel whose values are small beside the tensor's
range drowns in it, which is how int8 usually fails (Nagel et al. 2019, Data-Free Quantization,
arXiv:1906.04721, section 3).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec_runtime.session import Array

_STEPS = 255
_IMAGE_RANK = 4


@dataclass(slots=True)
class Channels:
    """Sums over one tensor's channels."""

    count: int
    sums: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    low: float
    high: float

    def noise(self) -> float:
        """Return the share of the channels' information that rounding takes, 0..1."""
        variance = np.maximum(self.squares / self.count - (self.sums / self.count) ** 2, 0.0)
        step = (max(self.high, 0.0) - min(self.low, 0.0)) / _STEPS
        alive = variance > 1e-12 * max(float(variance.max(initial=0.0)), 1e-30)
        if not alive.any() or not np.isfinite(step):
            return 0.0
        return float(np.minimum(step**2 / 12 / variance[alive], 1.0).mean())


def suspicion(tensors: Iterable[tuple[str, Array]], *, channels_last: bool) -> dict[str, float]:
    """Return how much of each tensor's information int8 is expected to take, by name.

    Args:
        tensors: name and values, [batch, ...], sample after sample.
        channels_last: where the channels of images are; those of anything else are last.
    """
    seen: dict[str, Channels] = {}
    for name, value in tensors:
        if value.ndim == 0 or value.size == 0 or value.dtype.kind != "f":
            continue
        axis = 1 if value.ndim == _IMAGE_RANK and not channels_last else value.ndim - 1
        rows = np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis]).astype(np.float64)
        part = Channels(
            len(rows), rows.sum(0), (rows**2).sum(0), float(rows.min()), float(rows.max())
        )
        before = seen.get(name)
        seen[name] = part if before is None else _joined(before, part)
    return {name: channels.noise() for name, channels in seen.items()}


def _joined(one: Channels, other: Channels) -> Channels:
    return Channels(
        one.count + other.count,
        one.sums + other.sums,
        one.squares + other.squares,
        min(one.low, other.low),
        max(one.high, other.high),
    )
