"""Steps on model outputs: softmax, top_k, threshold, argmax."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec_runtime.session import Array
from edgec_runtime.steps import _checks
from edgec_runtime.steps._params import Misfit, Params


@dataclass(frozen=True, slots=True)
class Softmax:
    """exp(x) / sum(exp(x)) along an axis, in float32."""

    op: ClassVar[str] = "softmax"
    axis: int

    @classmethod
    def parse(cls, params: Params) -> "Softmax":
        """Read {"axis": -1}."""
        return cls(params.integer("axis", -8, 7, -1))

    def apply(self, batch: Array) -> Array:
        """Return float32 of the batch's shape; sums to 1 along the axis."""
        _checks.require_kind(batch, "f", "floats")
        _checks.require_finite(batch)
        axis = _checks.axis_of(batch, self.axis)
        values = batch.astype(np.float32)
        shifted = np.exp(values - values.max(axis=axis, keepdims=True))
        shares: Array = shifted / shifted.sum(axis=axis, keepdims=True)
        return shares


@dataclass(frozen=True, slots=True)
class TopK:
    """The k greatest scores of each row, and a second output with their indices."""

    op: ClassVar[str] = "top_k"
    k: int
    indices: str  # name of the output that the indices become

    @classmethod
    def parse(cls, params: Params) -> "TopK":
        """Read {"k": count, "indices": name of the new output}."""
        return cls(params.integer("k", 1, 65_536), params.text("indices"))

    def select(self, batch: Array) -> tuple[Array, Array]:
        """Return scores [N, k], greatest first, and int64 indices [N, k]; ties by lower index."""
        _checks.require_kind(batch, "iuf", "numbers")
        _checks.require_rank(batch, (2,), "scores [N, classes]")
        _checks.require_finite(batch)
        if batch.shape[1] < self.k:
            raise Misfit(f"expected at least {self.k} scores, got {batch.shape[1]}")
        # Ascending over the reversed row, read backwards: stable, and no sign to overflow.
        rising = np.argsort(batch[:, ::-1], axis=1, kind="stable")
        indices = batch.shape[1] - 1 - rising[:, ::-1][:, : self.k].astype(np.int64)
        return np.take_along_axis(batch, indices, axis=1), indices


@dataclass(frozen=True, slots=True)
class Threshold:
    """Whether each value is at least `value`."""

    op: ClassVar[str] = "threshold"
    value: float

    @classmethod
    def parse(cls, params: Params) -> "Threshold":
        """Read {"value": number}."""
        return cls(params.number("value"))

    def apply(self, batch: Array) -> Array:
        """Return bool of the batch's shape."""
        _checks.require_kind(batch, "iuf", "numbers")
        _checks.require_finite(batch)
        above: Array = batch.astype(np.float64) >= self.value
        return above


@dataclass(frozen=True, slots=True)
class ArgMax:
    """The index of the greatest value along an axis; of equals the first."""

    op: ClassVar[str] = "argmax"
    axis: int

    @classmethod
    def parse(cls, params: Params) -> "ArgMax":
        """Read {"axis": -1}."""
        return cls(params.integer("axis", -8, 7, -1))

    def apply(self, batch: Array) -> Array:
        """Return int64 without that axis."""
        _checks.require_kind(batch, "iuf", "numbers")
        _checks.require_finite(batch)
        axis = _checks.axis_of(batch, self.axis)
        if batch.shape[axis] == 0:
            raise Misfit(f"expected values along axis {self.axis}, got none")
        first: Array = np.argmax(batch, axis=axis).astype(np.int64)
        return first
