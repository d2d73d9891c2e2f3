"""Functions of one value as tables of what each int8 becomes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from edgec_runtime.session import Array

Function: TypeAlias = Callable[[Array], Array]  # of float64, element by element
Scale: TypeAlias = tuple[float, int]  # of a tensor: the real value of one step, and its zero point
_LOW, _HIGH = -128, 127
_LEAST = 1e-6  # of a range, so that a step has a size

# TFLite operators that read one value.
_FUNCTIONS: dict[str, Function] = {
    "CEIL": np.ceil,
    "COS": np.cos,
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "EXP": np.exp,
    "FLOOR": np.floor,
    "LOG": np.log,
    "ROUND": np.rint,
    "RSQRT": lambda x: 1 / np.sqrt(x),
    "SIGN": np.sign,
    "SIN": np.sin,
    "SQRT": np.sqrt,
}


def curve(op: str, others: Sequence[Array | None]) -> Function | None:
    """Return what a TFLite operator computes of its first input, None if it needs more than that.

    Args:
        op: its name.
        others: what it reads besides, None for what is no constant of floats.
    """
    if op == "POW" and len(others) == 1 and others[0] is not None and others[0].size == 1:
        return partial(_power, float(others[0].reshape(-1)[0]))
    return None if others else _FUNCTIONS.get(op)


def _power(exponent: float, x: Array) -> Array:
    return np.power(x, exponent)


def table(function: Function, read: Scale, made: Scale) -> Array:
    """Return what the values -128..127 become, int8 [256].

    Where the function has no value, as the logarithm of what rounds to less than zero, it is the
    least that can be made.

    Args:
        function: in real numbers.
        read: the scale of what is looked up.
        made: the scale of what is found.
    """
    numbers = np.arange(_LOW, _HIGH + 1)
    with np.errstate(all="ignore"):
        values = function((numbers - read[1]) * float(read[0]))
    return quantised(np.where(np.isnan(values), -np.inf, values), made)


def quantised(values: Array, scale: Scale) -> Array:
    """Return the nearest int8 of real numbers."""
    steps: Array = np.clip(np.rint(values / scale[0]) + scale[1], _LOW, _HIGH)
    return steps.astype(np.int8)


def range_of(step: float, zero: int) -> tuple[float, float]:
    """Return the real values that an int8 scale reaches."""
    return (_LOW - zero) * step, (_HIGH - zero) * step


def scale_of(low: float, high: float) -> Scale:
    """Return the int8 scale of a range, widened to hold zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max(high - low, _LEAST) / (_HIGH - _LOW)
    return step, int(np.clip(round(_LOW - low / step), _LOW, _HIGH))
