"""Decoding lots in numpy: all lanes of all given lots at once. See `lanes`."""

from collections.abc import Sequence

import numpy as np

from edgec_bundle.delta.tensor import lanes, numbers, tables
from edgec_bundle.delta.tensor.lanes import Coded, Geometry, Resets
from edgec_bundle.delta.tensor.lot import MASK, TAPS, Lot
from edgec_bundle.delta.tensor.numbers import Ints
from edgec_bundle.errors import PatchFormatError


def decode_lots(lots: Sequence[Lot], coded: Sequence[Coded]) -> list[Ints]:
    """Return the codes of each lot's elements, or of a mask its numbers.

    All lots must have one dtype, one count and one number of lanes.

    Raises:
        PatchFormatError: `coded` is not what `encode_lots` makes of such lots.
    """
    geometry = Geometry(lots[0].count, coded[0].lanes)
    symbols = _Symbols(coded, geometry)
    bits = _Bits(coded)
    if lots[0].dtype == MASK:
        found = _decode_mask(lots, geometry, symbols)
    else:
        found = _Decoder(lots, geometry, symbols, bits).run()
    symbols.finish()
    bits.finish()
    return list(found.reshape(len(lots), -1))


class _Symbols:
    """The rANS states of all lanes, and the tables."""

    def __init__(self, coded: Sequence[Coded], geometry: Geometry) -> None:
        self._geometry = geometry
        self._states = np.stack([lanes.states_of(one.states) for one in coded])
        if (self._states < lanes.LOWEST).any():
            raise PatchFormatError("expected sound states in the patch")
        sizes = np.array([len(one.words) // 2 for one in coded], np.int64)
        starts = np.cumsum(sizes) - sizes
        words = b"".join(one.words for one in coded)
        self._words = np.append(np.frombuffer(words, "<u2").astype(np.int64), 0)
        self._next, self._ends = starts, starts + sizes
        self._step = 0
        self._came: list[Ints] = []
        self._rows = tables.CONTEXTS * np.arange(len(coded), dtype=np.int64)[:, None]

    def start(self, static: bool) -> None:
        """Set all tables to what they are before the first symbol."""
        self._counts = np.tile(tables.fresh_counts(static), (len(self._rows), 1))
        self._frequencies = tables.frequencies(self._counts)
        self._cumulative = np.cumsum(self._frequencies, axis=1)

    def read(self, contexts: Ints) -> Ints:
        """Return the next symbol of each of the first lanes, by their contexts."""
        active = contexts.shape[1]
        contexts = contexts + self._rows
        states = self._states[:, :active]
        slots = states & 0xFFFF
        cumulative = self._cumulative[contexts]
        symbols: Ints = (cumulative <= slots[..., None]).sum(-1, dtype=np.int64)
        cells = contexts * tables.SYMBOLS + symbols
        frequency = self._frequencies.reshape(-1)[cells]
        below = self._cumulative.reshape(-1)[cells] - frequency
        states = frequency * (states >> 16) + slots - below
        refill = states < lanes.LOWEST
        before = np.cumsum(refill, axis=1)
        at = np.minimum(self._next[:, None] + before - refill, len(self._words) - 1)
        self._states[:, :active] = np.where(refill, states << 16 | self._words[at], states)
        self._next = self._next + before[:, -1]
        self._came.append(cells.reshape(-1))
        self._step += 1
        if self._step % self._geometry.block == 0:
            self._adapt()
        return symbols

    def _adapt(self) -> None:
        cells = np.concatenate(self._came)
        self._came.clear()
        touched = tables.count(self._counts, cells // tables.SYMBOLS, cells % tables.SYMBOLS)
        self._frequencies[touched] = fresh = tables.frequencies(self._counts[touched])
        self._cumulative[touched] = np.cumsum(fresh, axis=1)

    def finish(self) -> None:
        """Return if every lane ended where it must. Raises PatchFormatError."""
        if (self._states != lanes.LOWEST).any() or (self._next != self._ends).any():
            raise PatchFormatError(
                "the patch is damaged: its coded elements end in the wrong place"
            )


class _Bits:
    """Bits as they are, lowest first."""

    def __init__(self, coded: Sequence[Coded]) -> None:
        sizes = np.array([len(one.bits) for one in coded], np.int64)
        data = b"".join(one.bits for one in coded) + bytes(8)
        self._windows = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
        self._last = len(data) - 8
        self._next = 8 * (np.cumsum(sizes) - sizes)
        self._ends = 8 * np.cumsum(sizes)

    def read(self, widths: Ints) -> Ints:
        """Return the next number of each lane; `widths` are [lots, lanes], up to 40 bits."""
        through = np.cumsum(widths, axis=1)
        numbers_ = self._read(self._next[:, None] + through - widths, widths)
        self._next = self._next + through[:, -1]
        return numbers_

    def read_one(self, row: int, width: int) -> int:
        """Return the next number of one lot."""
        at = self._next[row]
        self._next[row] += width
        return int(self._read(at, np.array(width, np.int64)))

    def _read(self, at: Ints, widths: Ints) -> Ints:
        windows = self._windows[np.minimum(at >> 3, self._last)].astype(np.uint64)
        shifted = (windows >> (at & 7).astype(np.uint64)).astype(np.int64)
        found: Ints = shifted & ((np.int64(1) << widths) - 1)
        return found

    def finish(self) -> None:
        """Return if all bits but the padding were read. Raises PatchFormatError."""
        left = self._ends - self._next
        if ((left < 0) | (left > 7)).any():
            raise PatchFormatError("the patch is damaged: its low bits end in the wrong place")


def _decode_mask(lots: Sequence[Lot], geometry: Geometry, symbols: _Symbols) -> Ints:
    symbols.start(static=True)
    contexts = np.stack([lot.contexts for lot in lots])
    found = np.zeros_like(contexts)
    starts = geometry.starts()
    for step in range(geometry.steps):
        at = starts[: geometry.active(step)] + step
        found[:, at] = symbols.read(contexts[:, at]) - tables.CENTRE
    return found


class _Decoder:
    """Lanes that predict, read an error and remember it."""

    def __init__(
        self, lots: Sequence[Lot], geometry: Geometry, symbols: _Symbols, bits: _Bits
    ) -> None:
        self._dtype = lots[0].dtype
        self._geometry = geometry
        self._symbols = symbols
        self._bits = bits
        self._is_float = numbers.is_float(self._dtype)
        self._offset = geometry.count * np.arange(len(lots), dtype=np.int64)[:, None]
        self._base = np.concatenate([lot.base for lot in lots])
        if self._is_float:
            self._reference = np.concatenate([lot.reference for lot in lots])
            self._reference_fixed = np.concatenate([lot.reference_fixed for lot in lots])
        self._has_taps = any(len(lot.coefficients) > 1 for lot in lots)
        self._gather_taps(lots)
        self._resets = Resets(lots, geometry)
        shape = (len(lots), geometry.lanes)
        self._slow, self._fast = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._exponents = np.zeros(shape, np.int64)
        self._errors = np.zeros((*shape, TAPS), np.int64)

    def _gather_taps(self, lots: Sequence[Lot]) -> None:
        if self._has_taps:
            sizes = np.cumsum([0] + [len(lot.coefficients) for lot in lots])
            pairs = zip(lots, sizes, strict=False)
            self._rows = np.concatenate([lot.rows + size for lot, size in pairs])
            self._coefficients = np.concatenate([lot.coefficients for lot in lots])

    def run(self) -> Ints:
        """Return the codes of all elements of all lots."""
        found = np.empty(self._base.shape, np.int64)
        self._symbols.start(static=False)
        starts = self._geometry.starts()
        for step in range(self._geometry.steps):
            resets = self._resets.at(step)
            if resets is not None:
                self._forget(*resets)
            at = self._offset + (starts[: self._geometry.active(step)] + step)
            found[at] = self._float_step(at) if self._is_float else self._int_step(at)
        return found

    def _forget(self, rows: Ints, lane: Ints, activities: Ints, exponents: Ints) -> None:
        self._slow[rows, lane] = self._fast[rows, lane] = activities
        self._exponents[rows, lane] = exponents
        self._errors[rows, lane] = 0

    def _int_step(self, at: Ints) -> Ints:
        base = self._base[at]
        predicted = self._corrected(base, at)
        half = 1 << (numbers.FRACTION_BITS - 1)
        whole = (predicted + half) >> numbers.FRACTION_BITS
        fraction = predicted - (whole << numbers.FRACTION_BITS)
        level, shift = self._expected(at, numbers.FRACTION_BITS)
        folded = self._read(level * tables.BUCKETS + lanes.bucket_of(fraction), shift)
        errors: Ints = np.where(fraction < 0, -folded, folded)
        codes = numbers.wrapped(whole + errors, numbers.bits_of(self._dtype))
        size = np.abs(folded) << (numbers.FRACTION_BITS + lanes.ACTIVITY_BITS)
        self._remember((codes << numbers.FRACTION_BITS) - base, size)
        return codes

    def _float_step(self, at: Ints) -> Ints:
        base, dtype = self._base[at], self._dtype
        exponents = self._exponents[:, : at.shape[1]]
        fixed = self._corrected(base, at)
        nearest = numbers.rounded(fixed, dtype, exponents)
        predicted = np.where(fixed == self._reference_fixed[at], self._reference[at], nearest)
        scale = numbers.ulp_exponents(predicted, dtype) + exponents
        level, shift = self._expected(at, scale)
        errors: Ints = self._read(level * tables.BUCKETS, shift)
        codes = numbers.wrapped(predicted + errors, numbers.bits_of(dtype))
        actual = numbers.fixed_of(codes, dtype, exponents)
        self._remember(actual - base, np.abs(actual - fixed) << lanes.ACTIVITY_BITS)
        return codes

    def _corrected(self, base: Ints, at: Ints) -> Ints:
        if not self._has_taps:
            return base
        weights = self._coefficients[self._rows[at]]
        corrections: Ints = (weights * self._errors[:, : at.shape[1]]).sum(-1) >> 6
        return base + corrections

    def _expected(self, at: Ints, scale: int | Ints) -> tuple[Ints, Ints]:
        active = at.shape[1]
        activity = lanes.mixed(self._slow[:, :active], self._fast[:, :active])
        return lanes.contexts_of(activity, scale)

    def _read(self, contexts: Ints, shift: Ints) -> Ints:
        """Return the next numbers: symbol, low bits, and what escapes append."""
        symbols = self._symbols.read(contexts)
        high = symbols - tables.CENTRE
        low = self._bits.read(shift) if shift.any() else shift
        escaped = np.abs(high) >= tables.LIMIT
        if escaped.any():
            for row, lane in np.argwhere(escaped):
                most = lanes.MAX_ESCAPE_BITS - int(shift[row, lane])
                length = min(self._bits.read_one(row, lanes.LENGTH_BITS), most)
                more = self._bits.read_one(row, length)
                high[row, lane] += more if high[row, lane] > 0 else -more
        found: Ints = (high << shift) - (np.left_shift(1, shift) >> 1) + low
        return found

    def _remember(self, errors: Ints, size: Ints) -> None:
        active = errors.shape[1]
        size = np.minimum(size, lanes.MAX_ACTIVITY)
        self._slow[:, :active] += (size - self._slow[:, :active]) >> 6
        self._fast[:, :active] += (size - self._fast[:, :active]) >> 3
        if self._has_taps:
            self._errors[:, :active, 1:] = self._errors[:, :active, :-1]
            self._errors[:, :active, 0] = errors
