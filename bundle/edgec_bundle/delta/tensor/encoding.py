"""Encoding lots in numpy; the inverse of `decoding`. See `lanes`.

All that depends on values only is computed for whole lots at once. What is left to loops over
steps are the running means and the rANS states, side by side for all given lots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor import lanes, numbers, tables
from edgec_bundle.delta.tensor.lanes import Coded, Geometry, Resets
from edgec_bundle.delta.tensor.lot import MASK, TAPS, Lot
from edgec_bundle.delta.tensor.numbers import Ints


def encode_lots(lots: Sequence[Lot], codes: Sequence[Ints], lane_count: int) -> list[Coded]:
    """Return the bytes that make `codes` of `lots`: [n] codes each, or numbers of a mask.

    All lots must have one dtype and one count.
    """
    geometry = Geometry(lots[0].count, lane_count)
    order = geometry.order()
    if lots[0].dtype == MASK:
        symbols = [
            _Symbols(lot.contexts[order], one[order] + tables.CENTRE, b"")
            for lot, one in zip(lots, codes, strict=True)
        ]
    else:
        symbols = _symbols(lots, codes, geometry, order)
    static = lots[0].dtype == MASK
    shares = [_adaptive_shares(one, geometry, static) for one in symbols]
    states, words = _rans(shares, geometry)
    return [
        Coded(lane_count, lanes.bytes_of_states(state), word, one.bits)
        for state, word, one in zip(states, words, symbols, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Symbols:
    """Contexts and symbols in the order of coding, and the bits beside them."""

    contexts: Ints
    symbols: Ints
    bits: bytes


@dataclass(frozen=True, slots=True)
class _Errors:
    """What the lanes see of each element, in the order of the elements."""

    errors: Ints  # folded
    sizes: Ints
    scale: Ints | int
    buckets: Ints | int


def _symbols(
    lots: Sequence[Lot], codes: Sequence[Ints], geometry: Geometry, order: Ints
) -> list[_Symbols]:
    seen = [_errors(lot, one, geometry) for lot, one in zip(lots, codes, strict=True)]
    activity = _activities(lots, seen, geometry)
    found = []
    for one, expected in zip(seen, activity, strict=True):
        level, shift = lanes.contexts_of(expected, one.scale)
        contexts = level * tables.BUCKETS + one.buckets
        moved = one.errors + (1 << shift >> 1)
        high = moved >> shift
        low = moved - (high << shift)
        symbols = np.clip(high, -tables.LIMIT, tables.LIMIT) + tables.CENTRE
        bits = _bits(high[order], low[order], shift[order], geometry)
        found.append(_Symbols(contexts[order], symbols[order], bits))
    return found


def _errors(lot: Lot, codes: Ints, geometry: Geometry) -> _Errors:
    exponents = lot.exponents[np.searchsorted(lot.starts, np.arange(lot.count), "right") - 1]
    actual = numbers.fixed_of(codes, lot.dtype, exponents)
    fixed = lot.base + _corrections(lot, actual - lot.base, geometry)
    bits = numbers.bits_of(lot.dtype)
    if numbers.is_float(lot.dtype):
        nearest = numbers.rounded(fixed, lot.dtype, exponents)
        predicted = np.where(fixed == lot.reference_fixed, lot.reference, nearest)
        scale = numbers.ulp_exponents(predicted, lot.dtype) + exponents
        sizes = np.abs(actual - fixed) << lanes.ACTIVITY_BITS
        return _Errors(numbers.wrapped(codes - predicted, bits), sizes, scale, 0)
    half = 1 << (numbers.FRACTION_BITS - 1)
    whole = (fixed + half) >> numbers.FRACTION_BITS
    fraction = fixed - (whole << numbers.FRACTION_BITS)
    errors = numbers.wrapped(codes - whole, bits)
    folded = np.where(fraction < 0, -errors, errors)
    sizes = np.abs(folded) << (numbers.FRACTION_BITS + lanes.ACTIVITY_BITS)
    return _Errors(folded, sizes, numbers.FRACTION_BITS, lanes.bucket_of(fraction))


def _corrections(lot: Lot, errors: Ints, geometry: Geometry) -> Ints | int:
    """Return what the errors before each element, in its lane and segment, say about it."""
    if len(lot.coefficients) <= 1:
        return 0
    elements = np.arange(lot.count)
    forgotten = np.zeros(lot.count, np.int64)
    for starts in (geometry.starts(), lot.starts):
        forgotten[starts[starts < lot.count]] = starts[starts < lot.count]
    since = elements - np.maximum.accumulate(forgotten)
    total = np.zeros(lot.count, np.int64)
    for back in range(1, min(TAPS, lot.count - 1) + 1):
        weights = lot.coefficients[lot.rows[back:], back - 1]
        total[back:] += np.where(since[back:] >= back, weights * errors[:-back], 0)
    return total >> 6


def _activities(lots: Sequence[Lot], seen: Sequence[_Errors], geometry: Geometry) -> Ints:
    """Return [lots, n], the error expected of each element, from its lane's earlier ones."""
    sizes = np.minimum(np.stack([one.sizes for one in seen]), lanes.MAX_ACTIVITY)
    expected = np.empty_like(sizes)
    resets = Resets(lots, geometry)
    slow = np.zeros((len(lots), geometry.lanes), np.int64)
    fast = np.zeros_like(slow)
    starts = geometry.starts()
    for step in range(geometry.steps):
        forgotten = resets.at(step)
        if forgotten is not None:
            rows, lane, activities = forgotten
            slow[rows, lane] = fast[rows, lane] = activities
        active = geometry.active(step)
        at = starts[:active] + step
        size = sizes[:, at]
        expected[:, at] = lanes.mixed(slow[:, :active], fast[:, :active])
        slow[:, :active] += (size - slow[:, :active]) >> 6
        fast[:, :active] += (size - fast[:, :active]) >> 3
    return expected


def _bits(high: Ints, low: Ints, shift: Ints, geometry: Geometry) -> bytes:
    """Return the low bits, each step's followed by those of its escapes. In order of coding."""
    escaped = np.flatnonzero(np.abs(high) >= tables.LIMIT)
    if not len(escaped):
        return packed(low, shift)
    excess = np.abs(high[escaped]) - tables.LIMIT
    lengths = np.array([int(one).bit_length() for one in excess], np.int64)
    step_ends = np.minimum((escaped // geometry.lanes + 1) * geometry.lanes, len(high))
    at = np.repeat(step_ends, 2)
    values = np.stack((lengths, excess), axis=1).reshape(-1)
    widths = np.stack((np.full_like(lengths, lanes.LENGTH_BITS), lengths), axis=1).reshape(-1)
    return packed(np.insert(low, at, values), np.insert(shift, at, widths))


def packed(values: Ints, widths: Ints) -> bytes:
    """Return `values` as bits, each in its width of up to 40, the lowest bit first."""
    ends = np.cumsum(widths)
    size = (int(ends[-1]) + 7) // 8 if len(ends) else 0
    if not size:
        return b""
    at = ends - widths
    moved = values.astype(np.uint64) << (at & 7).astype(np.uint64)
    data = np.zeros(size + 6, np.uint8)
    for byte in range(6):
        octets = (moved >> np.uint64(8 * byte) & np.uint64(255)).astype(np.float64)
        sums = np.bincount((at >> 3) + byte, octets, len(data))
        data += sums.astype(np.uint8)
    return data[:size].tobytes()


def _adaptive_shares(one: _Symbols, geometry: Geometry, static: bool) -> npt.NDArray[np.int64]:
    """Return [n, 2]: frequency of each symbol and of all below it, when it is coded."""
    counts = tables.fresh_counts(static)
    frequencies = tables.frequencies(counts)
    cumulative = np.cumsum(frequencies, axis=1)
    shares = np.empty((len(one.symbols), 2), np.int64)
    for first in range(0, len(shares), geometry.block * geometry.lanes):
        block = slice(first, first + geometry.block * geometry.lanes)
        contexts, symbols = one.contexts[block], one.symbols[block]
        shares[block, 0] = frequencies[contexts, symbols]
        shares[block, 1] = cumulative[contexts, symbols] - shares[block, 0]
        touched = tables.count(counts, contexts, symbols)
        frequencies[touched] = fresh = tables.frequencies(counts[touched])
        cumulative[touched] = np.cumsum(fresh, axis=1)
    return shares


def _rans(shares: Sequence[Ints], geometry: Geometry) -> tuple[Ints, list[bytes]]:
    """Return [lots, lanes] states and each lot's words, coding from the last element back."""
    all_shares = np.stack(shares)
    states = np.full((len(shares), geometry.lanes), lanes.LOWEST, np.int64)
    words = np.zeros(all_shares.shape[:2], np.uint16)
    emitted = np.zeros(all_shares.shape[:2], bool)
    for step in reversed(range(geometry.steps)):
        active = geometry.active(step)
        block = slice(step * geometry.lanes, step * geometry.lanes + active)
        frequency, below = all_shares[:, block, 0], all_shares[:, block, 1]
        state = states[:, :active]
        full = state >= frequency << 24
        words[:, block] = state & 0xFFFF
        emitted[:, block] = full
        state = np.where(full, state >> 16, state)
        quotient = state // frequency
        states[:, :active] = (quotient << 16) + (state - quotient * frequency) + below
    texts = [word[kept].astype("<u2").tobytes() for word, kept in zip(words, emitted, strict=True)]
    return states, texts
