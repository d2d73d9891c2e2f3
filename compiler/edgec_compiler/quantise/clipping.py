"""Which range of an activation its integers shall cover, from what calibration saw of it.

minmax      all of it.
percentile  all but the outermost 0.01 %, half of it on either side; of small tensors, all.
mse         the range with the least mean squared error: what clipping costs is weighed against
            the width of a step (s^2 / 12 for a number that is rounded to steps of s).
entropy     the range whose quantised distribution diverges least from the true one (Migacz, 8-bit
            inference with TensorRT, GTC 2017, slides 38-41), as ONNX Runtime computes it.

Every range holds zero, which integers must be able to say exactly (padding, ReLU).
"""

from dataclasses import dataclass

import numpy as np

from edgec_compiler.quantise.histogram import SIDE, Counts, Floats, Histogram

PERCENTILE = 99.99
Range = tuple[float, float]

_STEPS = 100  # candidates on either side for mse
_MERGED = 2  # bins: 2048 of magnitudes, as TensorRT has
_CANDIDATES = 128  # thresholds tried for entropy
_SMOOTHING = 1e-4  # of a count: what an empty bin of a distribution gets


@dataclass(frozen=True, slots=True)
class Scheme:
    """How integers stand for an activation."""

    bits: int
    symmetric: bool  # zero is in the middle of the range


@dataclass(slots=True)
class Seen:
    """What calibration saw of one tensor."""

    low: float
    high: float
    histogram: Histogram | None


def clipped(seen: Seen, method: str, scheme: Scheme) -> Range:
    """Return the range that `method`, one of `recipe.METHODS`, chooses for `scheme`."""
    whole = (min(seen.low, 0.0), max(seen.high, 0.0))
    histogram = seen.histogram
    if method == "minmax" or histogram is None or seen.low == seen.high:
        return whole
    if method == "percentile":
        low, high = _percentile(histogram, whole)
    elif method == "mse":
        low, high = _least_squares(histogram, whole, scheme)
    else:
        low, high = _least_divergence(histogram, whole, scheme)
    return max(low, whole[0]), min(high, whole[1])


def _percentile(histogram: Histogram, whole: Range) -> Range:
    total = int(histogram.counts.sum())
    cut = total * (1 - PERCENTILE / 100) / 2
    if cut < 1:
        return whole
    below = np.concatenate([[0], np.cumsum(histogram.counts)]).astype(np.float64)
    low, high = np.interp([cut, total - cut], below, histogram.edges)
    return min(float(low), 0.0), max(float(high), 0.0)


def _least_squares(histogram: Histogram, whole: Range, scheme: Scheme) -> Range:
    counts = histogram.counts
    centres = np.clip(histogram.edges[:-1] + histogram.width / 2, *whole)
    shares = np.linspace(1 / _STEPS, 1, _STEPS)
    above = _clipping_cost(counts, centres, shares * whole[1])
    below = _clipping_cost(counts[::-1], -centres[::-1], -shares * whole[0])
    rounded = int(counts.sum() - counts[SIDE - 1 : SIDE + 1].sum())  # zero is exact
    levels = 2**scheme.bits - 1
    if scheme.symmetric:
        peak = max(whole[1], -whole[0])
        tops = shares * peak
        cost = _clipping_cost(counts, centres, tops)
        cost += _clipping_cost(counts[::-1], -centres[::-1], tops)
        best = int(_last_least(cost + rounded * np.square(2 * tops / levels) / 12))
        return -float(tops[best]), float(tops[best])
    spans = shares[None, :] * whole[1] - shares[:, None] * whole[0]
    costs = below[:, None] + above[None, :] + rounded * np.square(spans / levels) / 12
    low, high = np.unravel_index(_last_least(costs), costs.shape)
    return float(shares[low] * whole[0]), float(shares[high] * whole[1])


def _last_least(costs: Floats) -> int:
    """Return the flat index of the least cost; of equal ones the last, which clips least."""
    return costs.size - 1 - int(np.argmin(costs.reshape(-1)[::-1]))


def _clipping_cost(counts: Counts, centres: Floats, limits: Floats) -> Floats:
    """Return for every limit the sum of squares of what lies beyond it."""
    weights = counts.astype(np.float64)

    def beyond(values: Floats) -> Floats:
        return np.concatenate([np.cumsum(values[::-1])[::-1], [0.0]])

    first = np.searchsorted(centres, limits, side="right")
    squares = beyond(weights * np.square(centres))[first]
    sums, number = beyond(weights * centres)[first], beyond(weights)[first]
    return np.maximum(squares - 2 * limits * sums + np.square(limits) * number, 0.0)


def _least_divergence(histogram: Histogram, whole: Range, scheme: Scheme) -> Range:
    magnitudes = histogram.counts[SIDE:] + histogram.counts[SIDE - 1 :: -1]
    magnitudes = magnitudes.reshape(-1, _MERGED).sum(axis=1)
    # Zeros are exact at any range; as a peak of the distribution they would argue for narrow ones.
    magnitudes[0] = magnitudes[1]
    one_sided = not scheme.symmetric and (whole[0] == 0 or whole[1] == 0)
    levels = 2 ** (scheme.bits if one_sided else scheme.bits - 1)
    used = int(np.flatnonzero(magnitudes)[-1]) + 1 if magnitudes.any() else 0
    if used <= levels:
        return whole
    tried = np.unique(np.linspace(levels, used, _CANDIDATES).astype(np.int64))
    costs = np.array([_divergence(magnitudes, int(count), levels) for count in tried])
    best = int(tried[_last_least(costs)])
    if best == used:
        return whole
    limit = best * _MERGED * histogram.width
    return max(whole[0], -limit), min(whole[1], limit)


def _divergence(magnitudes: Counts, count: int, levels: int) -> float:
    """Return KL(P || Q): P is clipped after `count` bins, Q is P in `levels` levels."""
    kept = magnitudes[:count].astype(np.float64)
    true = kept.copy()
    true[-1] += magnitudes[count:].sum()
    starts = np.arange(levels) * count // levels
    present = true > 0
    sums = np.add.reduceat(kept, starts)
    holders = np.add.reduceat(present.astype(np.float64), starts)
    level = np.searchsorted(starts, np.arange(count), side="right") - 1
    spread = np.divide(sums, holders, out=np.zeros(levels), where=holders > 0)[level]
    coded = np.where(present, spread, 0.0)
    if not coded.any():
        return np.inf
    p, q = _smoothed(true), _smoothed(coded)
    return float(np.sum(p * np.log(p / q)))


def _smoothed(counts: Floats) -> Floats:
    """Return counts as a distribution that is nowhere zero."""
    empty = counts == 0
    taken = _SMOOTHING * empty.sum() / max(1, (~empty).sum())
    filled = np.where(empty, _SMOOTHING, np.maximum(counts - taken, _SMOOTHING))
    found: Floats = filled / filled.sum()
    return found
