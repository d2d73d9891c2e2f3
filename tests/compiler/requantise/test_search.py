"""What counts as keeping the budget, and which samples that is judged on."""

import numpy as np
import pytest

from edgec_compiler.requantise.search import keeps
from edgec_compiler.samples import Samples
from edgec_runtime.data import Data


@pytest.mark.parametrize(("times", "kept"), [(0.9, True), (1.9, True), (2.1, False), (3.0, False)])
def test_a_budget_is_in_terms_of_errors(times: float, kept: bool) -> None:
    ordinary = np.random.default_rng(0).uniform(0.5, 1.5, 200)

    assert keeps(times**2 * ordinary, ordinary, 2.0) is kept


def test_a_few_samples_far_off_make_no_room_for_the_others() -> None:
    ordinary = np.ones(100)
    ordinary[:2] = 500
    squares = np.full(100, 9.0)  # three times the usual error, less than two times the mean one

    assert squares.mean() < 4 * ordinary.mean()
    assert not keeps(squares, ordinary, 2.0)
    assert keeps(np.full(100, 3.0), ordinary, 2.0)


def test_a_few_samples_may_not_become_much_worse_either() -> None:
    ordinary, squares = np.ones(100), np.ones(100)
    squares[:2] = 500

    assert not keeps(squares, ordinary, 2.0)


@pytest.mark.parametrize("count", [1, 7, 600, 10_000])
def test_any_first_part_of_spread_samples_is_from_all_over(count: int) -> None:
    samples = Samples(Data({"x": np.arange(count)}), "evaluation", None)

    found = np.asarray(samples.spread(512).data.inputs["x"])

    assert len(found) == len(set(found.tolist())) == min(count, 512)
    for most in (32, 128, 512):
        part = np.sort(found[:most])
        assert np.diff(part).max(initial=1) <= 3 * -(-count // most)


def test_some_of_the_samples_are_spread_without_the_others() -> None:
    samples = Samples(Data({"x": np.arange(90)}), "calibration", None)

    found = samples.spread(128, [n for n in range(90) if n % 3]).data.inputs["x"]

    assert sorted(np.asarray(found).tolist()) == [n for n in range(90) if n % 3]
