"""Finding the prediction that leaves the least to say about a tensor: tried, and the best kept.

Only the encoder runs this. What it finds is put on integer grids before use, so it may calculate
in floating point as it likes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor import assembly, lanes, numbers, record
from edgec_bundle.delta.tensor.lot import TAPS
from edgec_bundle.delta.tensor.model import Tensor
from edgec_bundle.delta.tensor.numbers import Ints
from edgec_bundle.delta.tensor.record import MAX_KERNEL, Delta

Floats = npt.NDArray[np.float64]

_RATIO_COST_BITS = 10.0
_WEIGHT_COST_BITS = 8.0
_MAX_CHANNELS = 1 << 14
_FIXED_TOP = 38  # the highest bit of a tensor's largest value, on the fixed grid
_SAMPLE = 4096
_MASK_SHARE = 0.05
_KEPT_LEAST, _KEPT_MOST, _KEPT_STEP = 0.05, 0.6, 1.8
_ONE_CONTEXT = 256  # as mask base: above any integer of 8 bits
_MIRRORED = -2 << 10  # the code of ratio -1
_LEAST_BLOCK, _BLOCK_COST_BITS = 8, 0.2
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Shape:
    """How the elements of a piece of a tensor lie.

    Attributes:
        row: elements per index of the first axis.
        last: elements per index of the last but one; the last axis' length.
        kernels: (kernel, inner size) of each way to see a convolution in it.
        phase: which element of the tensor is the piece's first.
    """

    row: int
    last: int
    kernels: tuple[tuple[int, int], ...]
    phase: int = 0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A delta, and what its fields only count."""

    delta: Delta
    ratios: Ints
    weights: npt.NDArray[np.int8]
    bits: float  # a rough guess of what its elements will take


def shape_of(tensor: Tensor) -> Shape:
    """Return how the elements of a whole tensor lie."""
    dims = tensor.shape if prod(tensor.shape) == tensor.elements else (tensor.elements,)
    row, last = prod(dims[1:]), dims[-1] if dims else 1
    kernels = []
    if len(dims) >= 3:
        kernels.append((prod(dims[2:]), 1))  # [out, in, ..kernel]
        kernels.append((prod(dims[1:-1]), last))  # [out, ..kernel, in]
    return Shape(row, last, tuple(one for one in kernels if 1 < one[0] <= MAX_KERNEL))


def piece_sizes(tensor: Tensor, most: int) -> Iterator[tuple[int, int]]:
    """Return (first element, count) of pieces of at most `most`, cut between rows if it can be."""
    shape, total = shape_of(tensor), tensor.elements
    atoms = [shape.row, *(kernel * inner for kernel, inner in shape.kernels), shape.last, 8]
    atom = next(one for one in atoms if one and one <= most)
    if atom % 2 and tensor.dtype == "int4":
        atom *= 2
    step = most // atom * atom
    for first in range(0, total, step):
        yield first, min(step, total - first)


def fit(
    delta: Delta, shape: Shape, old: Ints, new: Ints, scale_ratios: Ints | None, taps: bool
) -> Fitted:
    """Return `delta` with the best prediction of `new` codes from `old` ones.

    Args:
        delta: dtype, count and reference are set.
        shape: of the piece.
        old, new: [count] codes.
        scale_ratios: what `record.BY_SCALES` would use, if the scales are known.
        taps: whether errors before may correct; only lanes can.
    """
    delta = replace(delta, exponent=_exponent(delta.dtype, old, new))
    before = numbers.fixed_of(old, delta.dtype, delta.exponent)
    after = numbers.fixed_of(new, delta.dtype, delta.exponent)
    delta = _masked(delta, old, new)
    alive = _alive(delta, old, new)
    ratios = np.empty(0, np.int64)
    if delta.reference == record.OLD_FILE:
        delta, ratios = _scaled(delta, shape, before, after, alive, scale_ratios)
    used = scale_ratios if delta.scaling == record.BY_SCALES else ratios
    base = assembly.scaled(before, delta, used if used is not None else ratios)
    weights = np.empty(0, np.int8)
    errors = after - base
    is_fine = delta.dtype != "int4" and not delta.mask
    if taps and is_fine and delta.reference == record.OLD_FILE:
        delta, weights, errors = _tapped(delta, shape, errors)
    return _guessed(delta, ratios, weights, errors[alive], base[alive])


def _guessed(
    delta: Delta, ratios: Ints, weights: npt.NDArray[np.int8], errors: Ints, base: Ints
) -> Fitted:
    """Return what was fitted, with the size of the first error and a guess of the bits."""
    if not len(errors):
        return Fitted(delta, ratios, weights, 0.0)
    sizes = np.abs(errors)
    if not numbers.is_float(delta.dtype):
        half = 1 << (numbers.FRACTION_BITS - 1)
        sizes = (sizes + half) >> numbers.FRACTION_BITS << numbers.FRACTION_BITS
        steps = sizes.astype(np.float64) / (1 << numbers.FRACTION_BITS)
    else:
        nearest = numbers.rounded(base, delta.dtype, delta.exponent)
        scale = numbers.ulp_exponents(nearest, delta.dtype) + delta.exponent
        steps = np.ldexp(sizes.astype(np.float64), -scale)
    mean = int(np.minimum(sizes, lanes.MAX_ACTIVITY >> 8).mean() * (1 << lanes.ACTIVITY_BITS))
    code = int(lanes.levels_of(np.array([mean]))[0]) - 2
    bits = float(np.log2(1 + 4 * np.minimum(steps, 2.0**30)).sum())
    typical = len(steps) * float(np.log2(1 + 4 * min(float(steps.mean()), 2.0**30)))
    delta = replace(delta, activity=min(max(code, 0), 95))
    return Fitted(delta, ratios, weights, min(bits + len(steps), typical))


def _exponent(dtype: str, old: Ints, new: Ints) -> int:
    """Return the exponent that puts all but outlying values on the fixed grid."""
    if not numbers.is_float(dtype):
        return 0
    both = np.concatenate((old[:: len(old) // _SAMPLE + 1], new[:: len(new) // _SAMPLE + 1]))
    sizes = np.abs(numbers.float_values(both, dtype))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not len(sizes):
        return 0
    top = min(float(sizes.max()), float(np.median(sizes)) * 4096)
    return int(np.clip(_FIXED_TOP - np.ceil(np.log2(top)), -128, 127))


def is_zero(codes: Ints, dtype: str) -> npt.NDArray[np.bool_]:
    """Return which of `codes` are zero, of either sign."""
    zero: npt.NDArray[np.bool_] = (codes == 0) | ((codes == -1) & numbers.is_float(dtype))
    return zero


def _alive(delta: Delta, old: Ints, new: Ints) -> npt.NDArray[np.bool_]:
    """Return which elements the mask leaves to be coded."""
    if not delta.mask:
        return np.ones(delta.count, bool)
    return new != old if delta.kept else ~is_zero(new, delta.dtype)


def _masked(delta: Delta, old: Ints, new: Ints) -> Delta:
    """Return `delta` with a mask, if many of the old values became zero, or few changed by much."""
    if delta.reference != record.OLD_FILE or len(new) < _SAMPLE // 8:
        return delta
    died = is_zero(new, delta.dtype) & ~is_zero(old, delta.dtype)
    if not numbers.is_float(delta.dtype):
        far = int((died & (np.abs(old) > 2)).sum())  # the others may be only rounded
        if died.mean() >= _MASK_SHARE and far >= died.sum() // 2:
            return replace(delta, mask=1)
        if _is_mostly_kept(delta, old, new):
            return replace(delta, mask=1, kept=True, mask_base=_ONE_CONTEXT)
        return delta
    if died.mean() < _MASK_SHARE:
        return delta
    probe = replace(delta, mask=1, mask_base=-(1 << 40))
    sizes = assembly.mask_sizes(old, probe)
    return replace(probe, mask_base=max(0, int(np.percentile(sizes[died], 98)) - 40))


def _is_mostly_kept(delta: Delta, old: Ints, new: Ints) -> bool:
    """Return whether the elements that changed are better told from the others beforehand.

    Fine-tuning moves all weights a little, and the size of one step tells that of the next. A
    quantiser that keeps what it can leaves large steps among zeros, which tell nothing.
    """
    if numbers.bits_of(delta.dtype) != 8 or delta.count < _SAMPLE:
        return False
    steps = np.abs(numbers.wrapped(new - old, numbers.bits_of(delta.dtype)))
    changed = steps[steps > 0]
    if not _KEPT_LEAST * delta.count <= len(changed) <= _KEPT_MOST * delta.count:
        return False
    return float(changed.mean()) > _KEPT_STEP


def _scaled(
    delta: Delta,
    shape: Shape,
    before: Ints,
    after: Ints,
    alive: npt.NDArray[np.bool_],
    scale_ratios: Ints | None,
) -> tuple[Delta, Ints]:
    """Return `delta` with the scaling that costs least, and its ratios."""
    if delta.dtype == "int4":  # too few values for anything between
        return _mirrored(delta, shape, before, after)
    x, y = before.astype(np.float64) * alive, after.astype(np.float64) * alive
    best, best_gain = (delta, np.empty(0, np.int64)), 0.0
    if scale_ratios is not None:
        by_scales = replace(delta, scaling=record.BY_SCALES)
        base = assembly.scaled(before, by_scales, scale_ratios)
        gain = _cost(y - x, delta.dtype) - _cost(y - base, delta.dtype)
        if gain > best_gain:
            best, best_gain = (by_scales, best[1]), gain
    for channels, inner, phase in _axes(shape, delta.count):
        one = replace(delta, scaling=record.BY_CHANNEL, channels=channels, inner=inner, phase=phase)
        ratios, gain = _ratios(one, x, y)
        if gain > best_gain:
            best, best_gain = (one, ratios), gain
    return best


def _mirrored(delta: Delta, shape: Shape, before: Ints, after: Ints) -> tuple[Delta, Ints]:
    """Return `delta` with a ratio of 1 or -1 for each block, and these ratios, where that pays.

    Where a block's largest weight maps to the lowest integer, as operators of 4 bits have it, the
    scale takes its sign, and all integers change theirs when another becomes the largest.
    """
    block = shape.last
    if block < _LEAST_BLOCK or (shape.phase | delta.count) % block:
        return delta, np.empty(0, np.int64)
    before, after = before.reshape(-1, block), after.reshape(-1, block)
    gain = _wrapped_cost(after - before) - _wrapped_cost(after + before)
    is_worth = gain > _RATIO_COST_BITS
    if (gain[is_worth] - _RATIO_COST_BITS).sum() <= _BLOCK_COST_BITS * len(gain):
        return delta, np.empty(0, np.int64)
    one = replace(delta, scaling=record.BY_CHANNEL, channels=len(gain), inner=block)
    return one, np.where(is_worth, _MIRRORED, 0)


def _wrapped_cost(errors: Ints) -> Floats:
    """Return roughly how many bits the errors of 4 bits take, by row."""
    steps = numbers.wrapped(errors >> numbers.FRACTION_BITS, 4)
    bits: Floats = np.log2(np.abs(steps) + 0.3).sum(axis=1)
    return bits


def _axes(shape: Shape, count: int) -> list[tuple[int, int, int]]:
    """Return (channels, inner, phase) of each axis that may have ratios."""
    found = []
    if shape.row >= 8:
        phase = shape.phase % shape.row
        found.append((-(-(phase + count) // shape.row), shape.row, phase))
    if 1 < shape.last <= count // 8:
        found.append((shape.last, 1, shape.phase % shape.last))
    return [one for one in dict.fromkeys(found) if one[0] <= min(_MAX_CHANNELS, count)]


def _ratios(one: Delta, x: Floats, y: Floats) -> tuple[Ints, float]:
    """Return each channel's ratio as a code, 0 where it isn't worth it, and the bits saved."""
    channel = (np.arange(one.count) + one.phase) // one.inner % one.channels

    def sums(values: Floats) -> Floats:
        return np.bincount(channel, values, one.channels).astype(np.float64)

    xx, xy = sums(x * x), sums(x * y)
    with np.errstate(all="ignore"):
        best = np.where(xx > 0, xy / np.maximum(xx, _TINY), 1.0)
    shift = 0 if numbers.is_float(one.dtype) else 6
    codes = np.rint((np.clip(best, 0.25, 1.75) - 1) * (1 << (16 - shift))).astype(np.int64)
    factors = 1 + codes / (1 << (16 - shift))
    floor = 0.0 if numbers.is_float(one.dtype) else (1 << numbers.FRACTION_BITS) ** 2 / 12
    counts = np.bincount(channel, minlength=one.channels)
    plain = sums((y - x) ** 2) / np.maximum(counts, 1) + floor
    better = sums((y - x * factors[channel]) ** 2) / np.maximum(counts, 1) + floor
    gain = counts * 0.5 * np.log2(np.maximum(plain, _TINY) / np.maximum(better, _TINY))
    is_worth = (gain > _RATIO_COST_BITS) & (codes != 0)
    saved = float((gain[is_worth] - _RATIO_COST_BITS).sum()) - 2.0 * one.channels
    return np.where(is_worth, codes, 0), saved


def _cost(errors: Floats, dtype: str) -> float:
    """Return roughly how many bits the errors take, but for a constant."""
    unit = 1.0 if numbers.is_float(dtype) else float(1 << numbers.FRACTION_BITS)
    return float(np.log2(np.abs(errors) / unit + 0.3).sum())


def _tapped(delta: Delta, shape: Shape, errors: Ints) -> tuple[Delta, npt.NDArray[np.int8], Ints]:
    """Return `delta` with the kernel whose elements predict each other best, if any does."""
    best: tuple[Delta, npt.NDArray[np.int8], Ints] = delta, np.empty(0, np.int8), errors
    best_gain = 0.0
    for kernel, inner in shape.kernels:
        if delta.count % (kernel * inner) or shape.phase % (kernel * inner):
            continue
        one = replace(delta, kernel=kernel, inner_size=inner)
        rows = assembly.folded_kernel(errors, one).reshape(-1, kernel)
        weights, left, gain = _taps(rows.astype(np.float64), delta.dtype)
        if gain > best_gain:
            best, best_gain = (one, weights, left.astype(np.int64)), gain
    if best_gain:
        best = best[0], best[1], assembly.unfolded_kernel(best[2].reshape(-1), best[0])
    return best


def _taps(rows: Floats, dtype: str) -> tuple[npt.NDArray[np.int8], Floats, float]:
    """Return weights, what they leave, and the bits that they save, by least squares."""
    kernel = rows.shape[1]
    products = rows.T @ rows
    floor = 0.0 if numbers.is_float(dtype) else len(rows) * (1 << numbers.FRACTION_BITS) ** 2 / 12
    ridge = np.eye(kernel) * (np.trace(products) / kernel * 1e-4 + _TINY)
    left, found, gain = rows.copy(), [], 0.0
    for place in range(1, kernel):
        nearest = np.arange(place - 1, max(-1, place - 1 - TAPS), -1)
        system = (products + ridge)[np.ix_(nearest, nearest)]
        exact = np.linalg.solve(system, products[nearest, place])
        weights = np.clip(np.rint(exact * 64), -127, 127)
        left[:, place] -= rows[:, nearest] @ (weights / 64)
        before, after = products[place, place] + floor, float((left[:, place] ** 2).sum()) + floor
        gain += len(rows) * 0.5 * np.log2(max(before, _TINY) / max(after, _TINY))
        gain -= _WEIGHT_COST_BITS * len(nearest)
        found.append(weights.astype(np.int8))
    return np.concatenate(found), left, gain


def likeliest(old: Sequence[Ints], new: Ints, dtype: str) -> int | None:
    """Return which of `old` predicts `new` best, by a sample; None if none does at all."""
    bits = numbers.bits_of(dtype)
    sample = slice(None, None, len(new) // _SAMPLE + 1)
    wanted = new[sample]
    told = ~is_zero(wanted, dtype) | (bits <= 8)  # a mask may tell the others
    if not told.any():
        told[:] = True
    costs = []
    for one in old:
        errors = np.log2(1 + np.abs(numbers.wrapped(wanted - one[sample], bits)[told]))
        masked = float(errors[wanted[told] != 0].sum()) / len(errors) + 1  # a bit for the mask
        costs.append(min(float(errors.mean()), masked))
    if not costs:
        return None
    best = int(np.argmin(costs))
    # Floats with another exponent or sign as often as not are strangers; so are integers that
    # differ more than they are large.
    if numbers.is_float(dtype):
        alone = numbers.mantissa_bits(dtype) + 1.5
    else:
        alone = float(np.log2(1 + np.abs(wanted[told])).mean())
    return best if costs[best] <= alone + 1e-9 else None
