"""A histogram of a stream of numbers whose memory is fixed and whose order does not matter.

Bins are 2^k wide and begin at multiples of that, so doubling the width merges pairs exactly: what
comes out depends only on the numbers, never on their order or on the portions that they came in.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

SIDE = 4096  # bins on either side of zero
_FINEST = -200  # 2^k of the bins before anything but zeros was seen: less than any float32
_ALL_BITS = 62


class Histogram:
    """Counts of numbers in bins [i * 2^k, (i + 1) * 2^k) for i from -SIDE to SIDE - 1.

    k is the least for which all numbers so far fall into a bin.
    """

    def __init__(self) -> None:
        self._exponent = _FINEST
        self.counts: Counts = np.zeros(2 * SIDE, np.int64)

    @property
    def width(self) -> float:
        """How wide a bin is."""
        return float(2.0**self._exponent)

    @property
    def edges(self) -> Floats:
        """The bins' lower ends and, last, the highest's upper end: [2 * SIDE + 1]."""
        return np.arange(-SIDE, SIDE + 1, dtype=np.float64) * self.width

    def add(self, values: npt.NDArray[np.floating], peak: float) -> None:
        """Count `values`, all finite; `peak` is the greatest of their magnitudes."""
        self._widen(peak)
        places = np.floor(values.reshape(-1).astype(np.float64) * 2.0**-self._exponent)
        self.counts += np.bincount(places.astype(np.int64) + SIDE, minlength=2 * SIDE)

    def _widen(self, peak: float) -> None:
        """Double the bins' width until `peak` and -`peak` fall into one."""
        exponent = int(np.frexp(peak)[1]) - SIDE.bit_length() + 1 if peak else _FINEST
        steps = exponent - self._exponent
        if steps <= 0:
            return
        places = np.arange(-SIDE, SIDE) >> min(steps, _ALL_BITS)
        merged = np.zeros_like(self.counts)
        np.add.at(merged, places + SIDE, self.counts)
        self.counts, self._exponent = merged, exponent
