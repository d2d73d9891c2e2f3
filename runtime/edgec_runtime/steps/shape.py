"""Steps on shapes: layout and window."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec_runtime.session import Array
from edgec_runtime.steps import _checks
from edgec_runtime.steps._params import Misfit, Params

MAX_WINDOW = 1 << 24
MAX_VALUES = 1 << 28  # of one row, after windows were cut


@dataclass(frozen=True, slots=True)
class Layout:
    """Reorder the axes, named by letters: NHWC -> NCHW."""

    op: ClassVar[str] = "layout"
    source: str
    target: str

    @classmethod
    def parse(cls, params: Params) -> "Layout":
        """Read {"from": letters, "to": the same letters reordered}, N first in both."""
        source, target = params.text("from"), params.text("to")
        for key, letters in (("from", source), ("to", target)):
            if not (1 <= len(letters) <= 8 and letters.isalpha() and letters[0] == "N"):
                params.fail(key, f"expected 1 to 8 letters, N first, got '{letters}'")
        if len(set(source)) != len(source) or sorted(source) != sorted(target):
            params.fail("to", f"expected the letters of '{source}', each once, got '{target}'")
        return cls(source, target)

    def apply(self, batch: Array) -> Array:
        """Return the batch with its axes in the new order."""
        _checks.require_rank(batch, (len(self.source),), f"axes {self.source}")
        return batch.transpose([self.source.index(letter) for letter in self.target])


@dataclass(frozen=True, slots=True)
class Window:
    """Cut a signal [N, T, ...] into overlapping frames [N, frames, size, ...]."""

    op: ClassVar[str] = "window"
    size: int
    hop: int
    function: str  # "none", "hann" or "hamming", periodic
    pad: bool  # zeros at the end, so that every sample lies in a frame

    @classmethod
    def parse(cls, params: Params) -> "Window":
        """Read {"size": samples, "hop": samples, "function": "none", "pad": false}."""
        size = params.integer("size", 1, MAX_WINDOW)
        return cls(
            size,
            params.integer("hop", 1, MAX_WINDOW, size),
            params.choice("function", ("none", "hann", "hamming"), "none"),
            params.boolean("pad", False),
        )

    def apply(self, batch: Array) -> Array:
        """Return frames of the batch's dtype; float32 if a window function multiplies them."""
        _checks.require_kind(batch, "iuf", "numbers")
        if batch.ndim < 2:
            raise Misfit(f"expected a signal [N, T, ...], got shape {list(batch.shape)}")
        samples = batch.shape[1]
        if self.pad:
            frames = 1 + max(0, -(-(samples - self.size) // self.hop))
        elif samples < self.size:
            raise Misfit(f"expected at least {self.size} samples, got {samples}")
        else:
            frames = 1 + (samples - self.size) // self.hop
        values = frames * self.size * int(np.prod(batch.shape[2:], dtype=np.int64))
        if values > MAX_VALUES:
            raise Misfit(f"{frames} frames of {self.size} samples are too many")
        return self._shaped(self._cut(batch, frames))

    def _cut(self, batch: Array, frames: int) -> Array:
        needed = (frames - 1) * self.hop + self.size
        missing = max(0, needed - batch.shape[1])
        padded = np.pad(batch, [(0, 0), (0, missing)] + [(0, 0)] * (batch.ndim - 2))
        starts = np.arange(frames)[:, None] * self.hop + np.arange(self.size)
        return padded[:, starts]

    def _shaped(self, frames: Array) -> Array:
        if self.function == "none":
            return frames
        _checks.require_finite(frames)
        a0 = 0.5 if self.function == "hann" else 0.54
        weights = a0 - (1 - a0) * np.cos(2 * np.pi * np.arange(self.size) / self.size)
        shape = [1, 1, self.size] + [1] * (frames.ndim - 3)
        return frames.astype(np.float32) * weights.astype(np.float32).reshape(shape)
