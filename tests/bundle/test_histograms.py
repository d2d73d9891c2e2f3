"""Counts over fixed edges lose no value, add up in any order, and tell how far spreads differ."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_bundle.errors import HistogramError
from edgec_bundle.histograms import MAX_BINS, Histogram, psi

EDGES = (0.0, 0.25, 0.5, 1.0)

counts = st.lists(st.integers(0, 10**6), min_size=3, max_size=3).map(tuple)
histograms = st.builds(Histogram, st.just(EDGES), counts)
samples = st.lists(st.floats(), max_size=30)


def test_values_are_counted_between_the_edges() -> None:
    histogram = Histogram.from_samples([[0.0, 0.1], [0.25, 0.6]], EDGES)

    assert histogram == Histogram(EDGES, (2, 1, 1))
    assert histogram.total == 4
    assert histogram.add([1.0, 0.3]) == Histogram(EDGES, (2, 2, 2))


def test_no_value_is_lost() -> None:
    outside = [-1.0, -math.inf, 2.0, math.inf, math.nan]

    assert Histogram.from_samples(outside, EDGES) == Histogram(EDGES, (2, 0, 3))
    assert Histogram.from_samples(np.arange(256, dtype=np.uint8), EDGES).total == 256


@given(samples, samples)
def test_merging_is_counting_together(first: list[float], second: list[float]) -> None:
    merged = Histogram.from_samples(first, EDGES).merge(Histogram.from_samples(second, EDGES))

    assert merged == Histogram.from_samples(first + second, EDGES)
    assert merged.total == len(first) + len(second)


@given(histograms, histograms, histograms)
def test_merging_does_not_care_about_the_order(a: Histogram, b: Histogram, c: Histogram) -> None:
    assert a.merge(b) == b.merge(a)
    assert a.merge(b).merge(c) == a.merge(b.merge(c))
    assert a.merge(Histogram.empty(EDGES)) == a


@given(histograms)
def test_parsing_is_the_inverse_of_writing(histogram: Histogram) -> None:
    assert Histogram.from_dict(json.loads(json.dumps(histogram.to_dict()))) == histogram


@given(histograms, histograms)
def test_psi_is_a_symmetric_finite_distance(a: Histogram, b: Histogram) -> None:
    assert 0 <= psi(a, b) < math.inf
    assert psi(a, b) == pytest.approx(psi(b, a), abs=1e-12)
    assert psi(a, a) == 0


def test_psi_of_two_bins_worked_by_hand() -> None:
    a, b = Histogram((0, 1, 2), (2, 7)), Histogram((0, 1, 2), (7, 2))

    # with half a sample more in each bin: shares 0.25, 0.75 against 0.75, 0.25
    assert psi(a, b) == pytest.approx(2 * 0.5 * math.log(3))


def test_psi_does_not_care_how_many_were_counted() -> None:
    few, many = Histogram(EDGES, (10, 20, 30)), Histogram(EDGES, (10_000, 20_000, 30_000))

    assert psi(few, many) < 0.001
    assert psi(many, Histogram(EDGES, (30_000, 20_000, 10_000))) > 0.25


def test_other_edges_cannot_be_compared_or_added() -> None:
    one, other = Histogram.empty((0, 1, 2)), Histogram.empty((0, 1, 3))

    for act in (lambda: psi(one, other), lambda: one.merge(other)):
        with pytest.raises(HistogramError, match="same edges"):
            act()


HOSTILE: dict[str, Any] = {
    "nothing": None,
    "a list": [],
    "no counts": {"edges": [0, 1]},
    "something else": {"edges": [0, 1], "counts": [1], "x": 1},
    "text": {"edges": "01", "counts": [1]},
    "no bins": {"edges": [0], "counts": []},
    "an edge too few": {"edges": [0, 1], "counts": [1, 2]},
    "edges that fall": {"edges": [0, 2, 1], "counts": [1, 2]},
    "equal edges": {"edges": [0, 0, 1], "counts": [1, 2]},
    "NaN": {"edges": [0, math.nan], "counts": [1]},
    "infinity": {"edges": [0, math.inf], "counts": [1]},
    "a true edge": {"edges": [0, True], "counts": [1]},
    "an edge as text": {"edges": [0, "1"], "counts": [1]},
    "a negative count": {"edges": [0, 1], "counts": [-1]},
    "half a count": {"edges": [0, 1], "counts": [0.5]},
    "a true count": {"edges": [0, 1], "counts": [True]},
    "a huge count": {"edges": [0, 1], "counts": [2**53]},
    "too many bins": {"edges": list(range(MAX_BINS + 2)), "counts": [0] * (MAX_BINS + 1)},
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_histogram_is_refused(raw: Any) -> None:
    with pytest.raises(HistogramError):
        Histogram.from_dict(raw)


def test_counts_stop_at_what_json_can_carry() -> None:
    full = Histogram((0, 1), (2**53 - 1,))

    assert full.add([0.5]) == full.merge(full) == full
