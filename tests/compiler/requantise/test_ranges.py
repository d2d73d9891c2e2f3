"""Which deployed ranges are taken over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_compiler.requantise.ranges import Range, kept, rescaled


def at(scale: float, point: int = 0, dtype: str = "int8") -> Range:
    return Range(np.float32(scale), point, dtype)


@pytest.mark.parametrize(
    ("new", "deployed", "fixed", "expected"),
    [
        ({"a": at(1.0)}, {"a": at(1.05)}, (), {"a": at(1.05)}),
        ({"a": at(1.0)}, {"a": at(1.5)}, (), {}),  # too far
        ({"a": at(1.0, -128)}, {"a": at(1.0, 0)}, (), {}),  # its ends are others
        ({"a": at(1.0)}, {"a": at(1.05)}, ("a",), {}),  # something else depends on it
        ({"a": at(1.0)}, {}, (), {}),  # has no counterpart
        ({"a": at(1.0)}, {"a": at(1.05, 0, "uint8")}, (), {}),
        ({"a": at(1.0)}, {"a": at(1.0)}, (), {}),  # nothing to do
        # two that share a range stay together
        (
            {"a": at(1), "b": at(1)},
            {"a": at(1.05), "b": at(1.05)},
            (),
            dict.fromkeys("ab", at(1.05)),
        ),
        ({"a": at(1), "b": at(1)}, {"a": at(1.05), "b": at(1.02)}, (), {}),
        ({"a": at(1), "b": at(1)}, {"a": at(1.05)}, (), {}),
        ({"a": at(1), "b": at(1)}, {"a": at(1.05), "b": at(1.05)}, ("b",), {}),
        ({"a": at(1), "b": at(2)}, {"a": at(1.05), "b": at(9)}, (), {"a": at(1.05)}),
    ],
)
def test_deployed_ranges_that_are_near_are_kept(new, deployed, fixed, expected):
    assert kept(new, deployed, fixed, 0.1) == expected


@given(
    st.floats(0.01, 100),
    st.integers(-128, 127),
    st.floats(0.5, 2),
    st.integers(-128, 127),
    st.sampled_from([0.05, 0.2]),
)
def test_no_end_moves_further_than_the_tolerance(scale, point, factor, other, tolerance):
    new, deployed = at(scale, point), at(scale * factor, other)

    for one in kept({"a": new}, {"a": deployed}, (), tolerance).values():
        room = tolerance * 255 * scale * (1 + 1e-6)
        assert all(abs(x - y) <= room for x, y in zip(one.ends, new.ends, strict=True))


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1)), st.floats(0.5, 2))
def test_a_bias_keeps_its_value_in_other_steps_as_far_as_int32_goes(values, factor):
    before, after = np.float32(0.02), np.float32(0.02 * factor)

    made = rescaled(np.array(values, np.int64), before, after)

    wanted = np.array(values) * float(before)
    inside = np.abs(wanted / float(after)) < 2**31 - 2
    assert np.all(np.abs(made * float(after) - wanted)[inside] <= float(after) * 0.51)
    assert np.all(np.abs(made) < 2**31)
