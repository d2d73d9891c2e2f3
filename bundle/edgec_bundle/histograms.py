"""Histograms over fixed edges: how inputs and outputs are spread, and how far two spreads differ.

The edges are chosen once, with the baseline, so that counts from any device and any hour can be
added up, and compared with the baseline, without seeing a single sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from edgec_bundle.errors import HistogramError
from edgec_bundle.strict_json import JSON, MAX_INTEGER

MAX_BINS = 256
_PSEUDOCOUNT = 0.5  # Jeffreys prior: an empty bin is unlikely, not impossible


@dataclass(frozen=True, slots=True)
class Histogram:
    """``counts[i]`` values fell into ``[edges[i], edges[i + 1])``, the last bin closed.

    No value is lost: one below the first edge counts in the first bin, one above the last edge,
    or not a number, in the last.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.counts) <= MAX_BINS or len(self.edges) != len(self.counts) + 1:
            raise HistogramError(
                f"expected 1 to {MAX_BINS} counts and one edge more, "
                f"got {len(self.counts)} and {len(self.edges)}"
            )
        for edge in self.edges:
            if type(edge) not in (int, float) or not math.isfinite(edge):
                raise HistogramError(f"expected finite edges, got {edge!r:.80}")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise HistogramError("expected edges that grow")
        for count in self.counts:
            if type(count) is not int or not 0 <= count <= MAX_INTEGER:
                raise HistogramError(f"expected counts of 0 to {MAX_INTEGER}, got {count!r:.80}")

    @classmethod
    def empty(cls, edges: Sequence[float]) -> Self:
        """Return a histogram over `edges` that has seen nothing."""
        return cls(tuple(float(edge) for edge in edges), (0,) * (len(edges) - 1))

    @classmethod
    def from_samples(cls, samples: npt.ArrayLike, edges: Sequence[float]) -> Self:
        """Return a histogram over `edges` of `samples` (numbers, any shape)."""
        return cls.empty(edges).add(samples)

    @classmethod
    def from_dict(cls, raw: object) -> Self:
        """Return the histogram written as ``{"edges": [..], "counts": [..]}``.

        Raises:
            HistogramError: `raw` is something else.
        """
        if isinstance(raw, dict) and raw.keys() == {"edges", "counts"}:
            edges, counts = raw["edges"], raw["counts"]
            if isinstance(edges, list | tuple) and isinstance(counts, list | tuple):
                return cls(tuple(edges), tuple(counts))
        raise HistogramError("expected a histogram as an object of edges and counts")

    def to_dict(self) -> dict[str, JSON]:
        """Return the form for JSON, the inverse of `from_dict`."""
        return {"edges": list(self.edges), "counts": list(self.counts)}

    @property
    def total(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def add(self, values: npt.ArrayLike) -> Self:
        """Return the histogram with `values` (numbers, any shape) counted too."""
        flat = np.asarray(values, np.float64).ravel()
        bins = np.searchsorted(self.edges, flat, side="right") - 1  # NaN sorts last
        bins = np.clip(bins, 0, len(self.counts) - 1)
        fresh = np.bincount(bins, minlength=len(self.counts)).tolist()
        return type(self)(self.edges, _sums(self.counts, fresh))

    def merge(self, other: Self) -> Self:
        """Return the sum of both.

        Raises:
            HistogramError: `other` has other edges.
        """
        _check_same_edges(self, other)
        return type(self)(self.edges, _sums(self.counts, other.counts))


def psi(expected: Histogram, actual: Histogram) -> float:
    """Return the population stability index: 0 for equal shares, the same both ways round.

    Read as usual: below 0.1 the same population, above 0.25 another. Half a sample is added to
    every bin, so the value is finite, and near 0 for two empty histograms.

    Raises:
        HistogramError: the edges differ.
    """
    _check_same_edges(expected, actual)
    p, q = _shares(expected), _shares(actual)
    return float(np.sum((p - q) * np.log(p / q)))


def _shares(histogram: Histogram) -> npt.NDArray[np.float64]:
    counts = np.asarray(histogram.counts, np.float64) + _PSEUDOCOUNT
    return np.asarray(counts / counts.sum())


def _sums(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    return tuple(min(a + b, MAX_INTEGER) for a, b in zip(left, right, strict=True))


def _check_same_edges(left: Histogram, right: Histogram) -> None:
    if left.edges != right.edges:
        raise HistogramError("expected histograms over the same edges")
