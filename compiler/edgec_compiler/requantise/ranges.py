"""Which activations keep the ranges of the deployed model, so that biases and scales stay too.

Calibration on new data moves every range a little, and with it the steps of all biases. Where the
deployed range is as good, keeping it costs nothing and saves their share of the patch. Tensors that
share a range in the new model (a pooling's input and output, say) move together or not at all.
"""

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from edgec_compiler.requantise.layer import Ints

TOLERANCES = (0.2, 0.1, 0.05)  # tried one after the other, until the error does not grow
_LARGEST_BIAS = 2**31 - 1
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Range:
    """How an activation is quantised: real = scale * (q - point)."""

    scale: np.float32
    point: int
    dtype: str  # "int8", "uint8", ...

    @property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest real value."""
        info = np.iinfo(self.dtype)
        scale = float(self.scale)
        return (info.min - self.point) * scale, (info.max - self.point) * scale


def kept(
    new: Mapping[Key, Range],
    deployed: Mapping[Key, Range],
    fixed: Collection[Key],
    tolerance: float,
) -> dict[Key, Range]:
    """Return the deployed ranges that activations of the new model take over.

    Args:
        new: by tensor.
        deployed: ranges of the counterparts, by the new model's tensor.
        fixed: tensors whose range must stay.
        tolerance: how far either end may lie from the new one, as a share of the new range.
    """
    groups: dict[Range, list[Key]] = defaultdict(list)
    for key, one in new.items():
        groups[one].append(key)
    found: dict[Key, Range] = {}
    for one, keys in groups.items():
        others = {deployed.get(key) for key in keys}
        other = others.pop()
        if others or other is None or other == one or any(key in fixed for key in keys):
            continue
        if other.dtype == one.dtype and _near(one, other, tolerance):
            found |= dict.fromkeys(keys, other)
    return found


def _near(new: Range, deployed: Range, tolerance: float) -> bool:
    (low, high), (old_low, old_high) = new.ends, deployed.ends
    room = tolerance * (high - low)
    return abs(old_low - low) <= room and abs(old_high - high) <= room


def rescaled(bias: Ints, before: np.float32, after: np.float32) -> Ints:
    """Return a bias in steps of another input scale, within int32."""
    made = np.rint(bias * (float(before) / float(after)))
    found: Ints = np.clip(made, -_LARGEST_BIAS, _LARGEST_BIAS).astype(np.int64)
    return found
