"""Decoding lots in numpy: all lanes of all given lots at once. See `lanes`.

What does not depend on the lanes' memory is computed for many steps at once; a step itself is
some thirty calls of numpy, which take their time however few the lanes are.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor import lanes, numbers, tables
from edgec_bundle.delta.tensor.dealing import Phase, Row
from edgec_bundle.delta.tensor.lanes import Coded
from edgec_bundle.delta.tensor.lot import MASK, TAPS, Lot
from edgec_bundle.delta.tensor.numbers import Ints
from edgec_bundle.delta.tensor.reading import ROW_BITS, Bits, Symbols

_CHUNK_ELEMENTS = 1 << 13  # that are prepared at once
_LEVELS = np.arange(-512, 1024)  # all that floats can have; see `lanes.levels_of`
_OF_LEVEL = lanes.contexts_at(_LEVELS)
_ROWS = _OF_LEVEL[0] * tables.BUCKETS << ROW_BITS
_SHIFTS = _OF_LEVEL[1]
_SHIFTED = int(np.argmax(_SHIFTS > 0))  # the first that has one
_HALF = 1 << (numbers.FRACTION_BITS - 1)
_FRACTIONS = np.arange(-_HALF, _HALF)
_BUCKET_ROWS = lanes.bucket_of(_FRACTIONS) << ROW_BITS


def decode_lots(lots: Sequence[Lot], coded: Sequence[Coded]) -> list[Ints]:
    """Return the codes of each lot's elements, or of a mask its numbers.

    All lots must have one dtype.

    Raises:
        PatchFormatError: `coded` is not what `encode_lots` makes of such lots.
    """
    order = sorted(range(len(lots)), key=lambda number: coded[number].lanes)
    own, parts = [lots[number] for number in order], [coded[number] for number in order]
    row = Row(own, parts)
    is_mask = lots[0].dtype == MASK
    symbols, bits = Symbols(parts, row, static=is_mask), Bits(parts)
    found = _decode_mask(own, row, symbols) if is_mask else _Decoder(own, row, symbols, bits).run()
    symbols.finish()
    bits.finish()
    each = np.split(found, row.offsets[1:])
    return [each[order.index(number)] for number in range(len(lots))]


def _decode_mask(lots: Sequence[Lot], row: Row, symbols: Symbols) -> Ints:
    contexts = np.concatenate([lot.contexts for lot in lots])
    found = np.empty_like(contexts)
    for phase in row.phases():
        symbols.narrow(phase)
        first_rows = phase.lots * tables.CONTEXTS
        for step in range(phase.first, phase.end):
            at = row.starts[phase.lanes] + step
            found[at] = symbols.read(contexts[at] + first_rows << ROW_BITS)
    return found


class _Decoder:
    """Lanes that predict, read an error and remember it."""

    def __init__(self, lots: Sequence[Lot], row: Row, symbols: Symbols, bits: Bits) -> None:
        self._dtype = lots[0].dtype
        self._row = row
        self._symbols = symbols
        self._bits = bits
        self._is_float = numbers.is_float(self._dtype)
        self._base = np.concatenate([lot.base for lot in lots])
        if self._is_float:
            self._reference = np.concatenate([lot.reference for lot in lots])
            self._reference_fixed = np.concatenate([lot.reference_fixed for lot in lots])
            pairs = zip(lots, row.offsets, strict=True)
            self._segments = np.concatenate([lot.starts + offset for lot, offset in pairs])
            self._exponents = np.concatenate([lot.exponents for lot in lots])
        self._has_taps = any(len(lot.coefficients) > 1 for lot in lots)
        self._gather_taps(lots)
        self._resets = row.resets()
        self._lanes = np.arange(len(row.lots))
        self._slow, self._fast = np.zeros((2, len(row.lots)), np.int64)
        self._history = np.zeros((TAPS, len(row.lots)), np.int64)  # the last error last
        self._places = self._lanes.copy()

    def _gather_taps(self, lots: Sequence[Lot]) -> None:
        if self._has_taps:
            sizes = np.cumsum([0] + [len(lot.coefficients) for lot in lots])
            pairs = zip(lots, sizes, strict=False)
            self._weights_at = np.concatenate([lot.rows + size for lot, size in pairs])
            self._weights = np.concatenate([lot.coefficients for lot in lots])[:, ::-1]

    def run(self) -> Ints:
        """Return the codes of all elements of all lots."""
        found = np.empty(self._base.shape, np.int64)
        for phase in self._row.phases():
            self._narrow(phase)
            most = max(1, _CHUNK_ELEMENTS // len(phase.lanes))
            for first in range(phase.first, phase.end, most):
                steps = np.arange(first, min(phase.end, first + most))
                at = self._row.starts[phase.lanes] + steps[:, None]
                found[at] = self._floats(at, first) if self._is_float else self._ints(at, first)
        return found

    def _narrow(self, phase: Phase) -> None:
        self._symbols.narrow(phase)
        self._bits.narrow(phase)
        kept = np.searchsorted(self._lanes, phase.lanes)
        self._slow, self._fast = self._slow[kept], self._fast[kept]
        self._history = self._history[:, kept]
        self._lanes, self._lots = phase.lanes, phase.lots
        self._places[phase.lanes] = np.arange(len(phase.lanes))
        self._first_rows = phase.lots * tables.CONTEXTS << ROW_BITS

    def _ints(self, at: Ints, first: int) -> Ints:
        """Return the codes of the elements `at` [steps, lanes]."""
        base = self._base[at]
        if self._has_taps:
            return self._tapped_ints(base, self._taps(at), first)
        whole, is_negative, rows = self._int_prediction(base)
        folded = np.empty_like(base)
        for number in range(len(base)):
            self._forget(first + number, None)
            levels = self._levels() - (2 * (numbers.FRACTION_BITS + lanes.ACTIVITY_BITS))
            folded[number] = made = self._read(levels, rows[number])
            self._remember(np.abs(made) << (numbers.FRACTION_BITS + lanes.ACTIVITY_BITS))
        errors = np.where(is_negative, -folded, folded)
        return numbers.wrapped(whole + errors, numbers.bits_of(self._dtype))

    def _tapped_ints(self, base: Ints, weights: Ints, first: int) -> Ints:
        history = self._new_history(len(base))
        codes, bits = np.empty_like(base), numbers.bits_of(self._dtype)
        for number in range(len(base)):
            before = history[number : number + TAPS]
            self._forget(first + number, before)
            predicted = base[number] + (np.add.reduce(weights[number] * before, 0) >> 6)
            whole, is_negative, rows = self._int_prediction(predicted)
            levels = self._levels() - (2 * (numbers.FRACTION_BITS + lanes.ACTIVITY_BITS))
            folded = self._read(levels, rows)
            errors = np.where(is_negative, -folded, folded)
            codes[number] = made = numbers.wrapped(whole + errors, bits)
            history[number + TAPS] = (made << numbers.FRACTION_BITS) - base[number]
            self._remember(np.abs(folded) << (numbers.FRACTION_BITS + lanes.ACTIVITY_BITS))
        self._history = history[-TAPS:]
        return codes

    def _int_prediction(self, predicted: Ints) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
        """Return whole numbers, where the fraction is below 0, and the first rows of its tables."""
        moved = predicted + _HALF
        fraction = moved & (2 * _HALF - 1)  # from 0 on
        rows: Ints = _BUCKET_ROWS.take(fraction) + self._first_rows
        return moved >> numbers.FRACTION_BITS, fraction < _HALF, rows

    def _floats(self, at: Ints, first: int) -> Ints:
        """Return the codes of the elements `at` [steps, lanes]."""
        base, reference, exact = self._base[at], self._reference[at], self._reference_fixed[at]
        segments = np.searchsorted(self._segments, at, "right") - 1
        exponents = self._exponents[segments]
        weights = self._taps(at) if self._has_taps else None
        history = self._new_history(len(base))
        fixed = base
        if weights is None:
            predicted, scales = self._float_prediction(base, reference, exact, exponents)
        codes, bits = np.empty_like(base), numbers.bits_of(self._dtype)
        for number in range(len(base)):
            before = history[number : number + TAPS]
            self._forget(first + number, before)
            if weights is not None:
                now = slice(number, number + 1)
                fixed = base[now] + (np.add.reduce(weights[number] * before, 0) >> 6)
                one = self._float_prediction(fixed, reference[now], exact[now], exponents[now])
                nearest, scale, wanted = one[0][0], one[1][0], fixed[0]
            else:
                nearest, scale, wanted = predicted[number], scales[number], fixed[number]
            errors = self._read(self._levels() - scale, self._first_rows)
            codes[number] = made = numbers.wrapped(nearest + errors, bits)
            actual = numbers.fixed_of(made, self._dtype, exponents[number])
            history[number + TAPS] = actual - base[number]
            self._remember(np.abs(actual - wanted) << lanes.ACTIVITY_BITS)
        self._history = history[-TAPS:]
        return codes

    def _float_prediction(
        self, fixed: Ints, reference: Ints, exact: Ints, exponents: Ints
    ) -> tuple[Ints, Ints]:
        """Return predicted codes, and by how much the size of their last bit moves levels."""
        nearest = numbers.rounded(fixed, self._dtype, exponents)
        predicted = np.where(fixed == exact, reference, nearest)
        scale = numbers.ulp_exponents(predicted, self._dtype) + exponents
        return predicted, 2 * (scale + lanes.ACTIVITY_BITS)

    def _new_history(self, steps: int) -> Ints:
        return np.concatenate((self._history, np.empty((steps, len(self._lanes)), np.int64)))

    def _taps(self, at: Ints) -> Ints:
        """Return [steps, TAPS, lanes], the weights of the errors before each element."""
        weights = self._weights[self._weights_at[at]]
        return np.ascontiguousarray(weights.transpose(0, 2, 1))

    def _forget(self, step: int, history: Ints | None) -> None:
        reset = self._resets.get(step)
        if reset is None:
            return
        place = self._places[reset.lanes]
        self._slow[place] = self._fast[place] = reset.activities
        if history is not None:
            history[:, place] = 0

    def _levels(self) -> Ints:
        return lanes.levels_of(lanes.mixed(self._slow, self._fast))

    def _read(self, levels: Ints, rows: Ints) -> Ints:
        """Return the next numbers: symbol, low bits, and what escapes append."""
        at = levels - int(_LEVELS[0])
        high = self._symbols.read(rows + _ROWS.take(at, mode="clip"))
        (shifted,) = (at >= _SHIFTED).nonzero()
        (escaped,) = (np.abs(high) >= tables.LIMIT).nonzero()
        if not len(shifted) and not len(escaped):
            return high
        shift = _SHIFTS.take(at, mode="clip")
        low = self._bits.read(shift) if len(shifted) else shift
        for lane in escaped.tolist():
            lot, most = int(self._lots[lane]), lanes.MAX_ESCAPE_BITS - int(shift[lane])
            length = min(self._bits.read_one(lot, lanes.LENGTH_BITS), most)
            more = self._bits.read_one(lot, length)
            high[lane] += more if high[lane] > 0 else -more
        found: Ints = (high << shift) - (np.left_shift(1, shift) >> 1) + low
        return found

    def _remember(self, size: Ints) -> None:
        size = np.minimum(size, lanes.MAX_ACTIVITY)
        self._slow += (size - self._slow) >> 6
        self._fast += (size - self._fast) >> 3
