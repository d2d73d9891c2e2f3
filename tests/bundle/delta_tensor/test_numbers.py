"""Codes and fixed values, against numpy's own types and worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_bundle.delta.tensor import numbers
from edgec_bundle.delta.tensor.model import DTYPES

FLOATS = ("float16", "float32", "bfloat16")


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@given(st.binary(min_size=4, max_size=64))
def test_codes_and_bytes_are_inverse(dtype: str, data: bytes) -> None:
    data = data[: len(data) // 4 * 4]

    codes = numbers.codes_of(data, dtype)

    half = 1 << (numbers.bits_of(dtype) - 1)
    assert numbers.bytes_of(codes, dtype) == data
    assert len(codes) == len(data) * 8 // numbers.bits_of(dtype)
    assert ((codes >= -half) & (codes < half)).all()


def test_codes_of_floats_sort_like_the_floats() -> None:
    values = np.array([-np.inf, -2.5, -1e-40, -0.0, 0.0, 1e-40, 1.0, 2.5, np.inf], "<f4")

    codes = numbers.codes_of(values.tobytes(), "float32")

    assert (np.diff(codes) > 0).all()
    assert codes[3:5].tolist() == [-1, 0]


def test_int4_has_the_lower_half_first() -> None:
    assert numbers.codes_of(b"\x81\x7f", "int4").tolist() == [1, -8, -1, 7]


def test_all_half_floats_survive_the_fixed_grid() -> None:
    words = np.arange(1 << 16, dtype="<u2")
    values = words.view("<f2").astype(np.float64)
    finite = np.isfinite(values) & (words != 0x8000)
    codes = numbers.codes_of(words[finite].tobytes(), "float16")

    fixed = numbers.fixed_of(codes, "float16", 24)

    assert (fixed == values[finite] * 2.0**24).all()
    assert (numbers.rounded(fixed, "float16", 24) == codes).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_no_number_is_zero_and_what_is_too_large_is_held(dtype: str) -> None:
    words = {"float16": "7e00 7c00 fc00", "float32": "7fc00000 7f800000 ff800000"}
    words["bfloat16"] = "7fc0 7f80 ff80"
    data = b"".join(bytes.fromhex(word)[::-1] for word in words[dtype].split())

    fixed = numbers.fixed_of(numbers.codes_of(data, dtype), dtype, 3)

    assert fixed.tolist() == [0, numbers.MAX_FIXED, -numbers.MAX_FIXED]


@pytest.mark.parametrize(
    ("value", "code"),
    [(0x3F808000, 0x3F80), (0x3F808001, 0x3F81), (0x3F818000, 0x3F82), (0x3F817FFF, 0x3F81)],
)
def test_bfloat16_is_rounded_to_even(value: int, code: int) -> None:
    fixed = np.array([int(np.uint32(value).view(np.float32) * 2.0**30)], np.int64)

    assert numbers.rounded(fixed, "bfloat16", 30).tolist() == [code]


@pytest.mark.parametrize("dtype", FLOATS)
def test_neighbours_differ_by_what_is_said(dtype: str) -> None:
    for number in (1e-3, 0.7, 1.0, 5.0):
        word = np.array([number], "<f4")
        data = {
            "float32": word.tobytes(),
            "float16": word.astype("<f2").tobytes(),
            "bfloat16": (word.view("<u4") >> 16).astype("<u2").tobytes(),
        }[dtype]
        code = numbers.codes_of(data, dtype)
        step = numbers.float_values(code + 1, dtype) - numbers.float_values(code, dtype)

        assert step == 2.0 ** numbers.ulp_exponents(code, dtype)[0]
