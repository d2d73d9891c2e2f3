"""A lot: elements of one dtype that are coded together, and what is known of them beforehand."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor.numbers import Ints

MAX_ELEMENTS = 256 << 10  # of one record, hence of one lot
TAPS = 8  # how many earlier elements of the kernel may predict one
MASK = "mask"  # the dtype of a lot whose elements say which weights are zero


@dataclass(frozen=True, slots=True)
class Lot:
    """What encoder and decoder both know before the first element.

    Attributes:
        dtype: a key of `DTYPES`, or `MASK`.
        base: [n] fixed values (see `numbers`): each element's prediction from the old file.
        reference: [n] codes that stand for a prediction of exactly `reference_fixed`; of floats.
        reference_fixed: [n] fixed values of `reference`; of floats.
        rows: [n] which row of `coefficients` predicts the element; row 0 is all zeros.
        coefficients: [rows, TAPS] in 1/64: weights of the errors 1, 2, .. elements before.
        starts: [s] the first element of each segment, from 0 on, growing.
        activities: [s] what `lanes` expects of the first error of each segment.
        exponents: [s] the exponent of the segment's fixed values; of floats.
        contexts: [n] of a mask: which table predicts the element; otherwise empty.
    """

    dtype: str
    base: Ints
    reference: Ints
    reference_fixed: Ints
    rows: npt.NDArray[np.int16]
    coefficients: Ints
    starts: Ints
    activities: Ints
    exponents: Ints
    contexts: Ints

    @property
    def count(self) -> int:
        """How many elements there are."""
        return len(self.contexts) if self.dtype == MASK else len(self.base)
