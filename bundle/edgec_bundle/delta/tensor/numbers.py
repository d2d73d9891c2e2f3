"""Elements as whole numbers: codes that sort like the values, and values on a fixed-point grid.

Everything here is integer arithmetic or one IEEE 754 operation at a time, so that every machine
gets the same bits.

A *code* of an integer is the integer, of a uint8 less 128, where weights lie whose zero point is
in the middle; of a float, its rank among the floats of its type: -1 is
-0.0, 0 is +0.0, and neighbours differ by one. Codes are int64 in ``-2**(bits-1) ..
2**(bits-1) - 1``. *Fixed* values are int64: of an integer, 256 times it; of a float ``x``, the
whole part of ``x * 2**exponent``, held within ``2**40``.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor.model import DTYPES

Ints = npt.NDArray[np.int64]
Octets = npt.NDArray[np.uint8]

FRACTION_BITS = 8  # of the fixed values of integers
MAX_FIXED = 1 << 40
_UINT8_CENTRE = 128
_MANTISSA_BITS = {"float16": 10, "float32": 23, "bfloat16": 7}
_BIAS = {"float16": 15, "float32": 127, "bfloat16": 127}


def is_float(dtype: str) -> bool:
    """Return whether `dtype` is a floating-point type."""
    return dtype in _MANTISSA_BITS


def bits_of(dtype: str) -> int:
    """Return how many bits an element has."""
    return DTYPES[dtype][1]


def mantissa_bits(dtype: str) -> int:
    """Return how many bits of a float's mantissa are stored."""
    return _MANTISSA_BITS[dtype]


def bytes_for(dtype: str, count: int) -> int:
    """Return how many bytes `count` elements take."""
    return (count * bits_of(dtype) + 7) // 8


def codes_of(data: bytes, dtype: str) -> Ints:
    """Return the codes of the elements in `data`."""
    if dtype == "int4":
        octets = np.frombuffer(data, np.uint8)
        halves = np.stack((octets & 15, octets >> 4), axis=1).reshape(-1)
        return wrapped(halves.astype(np.int64), 4)
    if dtype == "uint8":
        return np.frombuffer(data, np.uint8).astype(np.int64) - _UINT8_CENTRE
    words = np.frombuffer(data, f"<i{bits_of(dtype) // 8}").astype(np.int64)
    return _ranked(words, dtype) if is_float(dtype) else words


def bytes_of(codes: Ints, dtype: str) -> bytes:
    """Return the elements with these codes, taken modulo ``2**bits``."""
    if dtype == "int4":
        halves = (codes & 15).astype(np.uint8).reshape(-1, 2)
        return (halves[:, 0] | halves[:, 1] << 4).tobytes()
    if dtype == "uint8":
        codes = codes + _UINT8_CENTRE
    bits = bits_of(dtype)
    words = _ranked(wrapped(codes, bits), dtype) if is_float(dtype) else codes
    return words.astype(f"<u{bits // 8}").tobytes()


def wrapped(values: Ints, bits: int) -> Ints:
    """Return `values` modulo ``2**bits``, from ``-2**(bits-1)`` on."""
    half = 1 << (bits - 1)
    return ((values + half) & ((1 << bits) - 1)) - half


def fixed_of(codes: Ints, dtype: str, exponent: int | Ints) -> Ints:
    """Return the fixed values of `codes`; `exponent` counts only for floats. NaN becomes 0."""
    if not is_float(dtype):
        return codes << FRACTION_BITS
    values = float_values(codes, dtype)
    with np.errstate(invalid="ignore"):
        scaled = values * np.ldexp(1.0, exponent)
        scaled = np.where(np.isnan(scaled), 0.0, scaled)
    return np.clip(scaled, -float(MAX_FIXED), float(MAX_FIXED)).astype(np.int64)


def rounded(fixed: Ints, dtype: str, exponent: int | Ints) -> Ints:
    """Return the code of the float nearest to each fixed value."""
    with np.errstate(over="ignore", under="ignore"):
        values = (fixed.astype(np.float64) * np.ldexp(1.0, -exponent)).astype(np.float32)
        if dtype == "float16":
            words = values.astype(np.float16).view(np.int16).astype(np.int64)
        else:
            words = values.view(np.int32).astype(np.int64)
    if dtype == "bfloat16":
        words = (words & 0xFFFFFFFF) + 0x7FFF + (words >> 16 & 1)
        words = wrapped(words >> 16, 16)
    return _ranked(words, dtype)


def ulp_exponents(codes: Ints, dtype: str) -> Ints:
    """Return e, where neighbours of each float differ by ``2**e``."""
    magnitudes = np.where(codes < 0, ~codes, codes)
    exponents = np.maximum(magnitudes >> _MANTISSA_BITS[dtype], 1)
    found: Ints = exponents - (_BIAS[dtype] + _MANTISSA_BITS[dtype])
    return found


def float_values(codes: Ints, dtype: str) -> npt.NDArray[np.float64]:
    """Return the floats that `codes` stand for."""
    with np.errstate(invalid="ignore"):
        return _floats(codes, dtype).astype(np.float64)


def _ranked(words: Ints, dtype: str) -> Ints:
    """Return the codes of signed words, or the signed words of codes: it is its own inverse."""
    magnitude = (1 << (bits_of(dtype) - 1)) - 1
    ranked: Ints = words ^ (words >> 63 & magnitude)
    return ranked


def _floats(codes: Ints, dtype: str) -> npt.NDArray[np.float32]:
    words = _ranked(codes, dtype)
    if dtype == "bfloat16":
        words = words << 16
    decode: dict[str, Callable[[Ints], npt.NDArray[np.float32]]] = {
        "float16": lambda w: w.astype(np.int16).view(np.float16).astype(np.float32),
        "float32": lambda w: w.astype(np.int32).view(np.float32),
        "bfloat16": lambda w: w.astype(np.int32).view(np.float32),
    }
    with np.errstate(invalid="ignore"):
        return decode[dtype](words)
