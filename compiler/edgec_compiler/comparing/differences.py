"""How far two streams of values lie apart, in memory that does not grow."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec_runtime.session import Array

_ROUNDING = 1e-12  # of a sum of squares: less variance is none


Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Difference:
    """Sums over all values of one tensor so far: the exact ones and the compiled model's.

    `axis` is the tensor's channel axis. Sums are kept per channel, [channels].
    """

    axis: int = -1
    count: int = 0  # values of each channel
    totals: Floats | None = None
    exact_squares: Floats | None = None
    error_squares: Floats | None = None
    made_squares: float = 0.0
    products: float = 0.0
    worst: float = 0.0  # the greatest error, in the tensor's own unit

    def add(self, exact: Array, made: Array) -> None:
        """Note values of equal number. Raises ValueError if they are not."""
        if exact.size != made.size:
            raise ValueError(f"{exact.size} and {made.size} values")
        if exact.size == 0:
            return
        x = self._rows(exact)
        y = self._rows(made.reshape(exact.shape))
        error = y - x
        if self.totals is None or self.exact_squares is None or self.error_squares is None:
            self.totals, self.exact_squares, self.error_squares = np.zeros((3, x.shape[1]))
        self.count += len(x)
        self.totals += x.sum(axis=0)
        self.exact_squares += np.square(x).sum(axis=0)
        self.error_squares += np.square(error).sum(axis=0)
        self.made_squares += float(np.square(y).sum())
        self.products += float((x * y).sum())
        self.worst = max(self.worst, float(np.abs(error).max()))

    def _rows(self, values: Array) -> Floats:
        """Return values as [values of a channel, channels]."""
        if values.ndim < 2:
            return values.astype(np.float64).reshape(-1, 1)
        moved = np.moveaxis(values.astype(np.float64), self.axis, -1)
        return moved.reshape(-1, moved.shape[-1])

    @property
    def noise(self) -> float:
        """The mean squared error as a share of the variance; of a constant tensor, of its square.

        0 for equal values, inf where an error meets zeros only.
        """
        if self.totals is None or self.exact_squares is None or self.error_squares is None:
            return 0.0
        errors, squares = float(self.error_squares.sum()), float(self.exact_squares.sum())
        if errors == 0:
            return 0.0
        variance = squares - float(self.totals.sum()) ** 2 / (self.count * len(self.totals))
        spread = variance if variance > _ROUNDING * squares else squares
        return errors / spread if spread > 0 else math.inf

    @property
    def channel_noise(self) -> float:
        """The noise of a channel, 0..1, on average over those that are not constant.

        Where channels have very different ranges, this tells of small ones that are lost.
        """
        if self.totals is None or self.exact_squares is None or self.error_squares is None:
            return 0.0
        variances = self.exact_squares - np.square(self.totals) / self.count
        alive = variances > _ROUNDING * self.exact_squares
        if not alive.any():
            return 0.0
        return float(np.minimum(self.error_squares[alive] / variances[alive], 1).mean())

    @property
    def sqnr_db(self) -> float | None:
        """The signal-to-quantisation-noise ratio; None for equal values or an infinite noise."""
        return None if self.noise in (0.0, math.inf) else -10 * math.log10(self.noise)

    @property
    def cosine(self) -> float | None:
        """The cosine of the angle between both streams as vectors; None if one is all zeros."""
        if self.exact_squares is None:
            return None
        lengths = math.sqrt(float(self.exact_squares.sum())) * math.sqrt(self.made_squares)
        return self.products / lengths if lengths else None
