"""Symbols and bits of many lanes at once, of several lots side by side. See `lanes`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgec_bundle.delta.tensor import lanes, tables
from edgec_bundle.delta.tensor.dealing import Phase, Row
from edgec_bundle.delta.tensor.lanes import Coded
from edgec_bundle.delta.tensor.numbers import Ints
from edgec_bundle.errors import PatchFormatError

ROW_BITS = 16  # a table's number lies above the slots of its symbols
_SYMBOL_BITS = 6


@dataclass(slots=True)
class _Pace:
    """Lots whose tables change after the same number of steps: their lanes stand together."""

    block: int
    lanes: slice
    came: list[Ints]


class Symbols:
    """The rANS states of all lanes, and the tables.

    The tables of all lots and contexts lie in one growing list: number of the table, then what
    lies below each symbol. One search in it finds the symbols of all lanes.
    """

    def __init__(self, coded: Sequence[Coded], row: Row, *, static: bool) -> None:
        self._states = np.concatenate([lanes.states_of(one.states) for one in coded])
        if (self._states < lanes.LOWEST).any():
            raise PatchFormatError("expected sound states in the patch")
        sizes = np.array([len(one.words) // 2 for one in coded], np.int64)
        self._ends = np.cumsum(sizes)
        self._next = self._ends - sizes
        words = b"".join(one.words for one in coded)
        self._words = np.append(np.frombuffer(words, "<u2").astype(np.int64), 0)
        self._counts = np.tile(tables.fresh_counts(static), (len(coded), 1))
        self._frequencies = np.empty(self._counts.shape, np.int64)
        self._below = np.empty(self._counts.shape, np.int64)
        self._renew(np.arange(len(self._counts)))
        blocks = np.array([one.block for one in row.geometries])
        self._blocks = blocks[row.lots]
        self._paces = [_Pace(int(one), slice(0), []) for one in np.unique(blocks)]
        self._lanes, self._lots = np.arange(len(row.lots)), row.lots
        self._step = 0

    def narrow(self, phase: Phase) -> None:
        """Go on with the lanes of `phase`. Raises PatchFormatError if another did not end well."""
        goes_on = np.isin(self._lanes, phase.lanes, assume_unique=True)
        _check_states(self._states[~goes_on])
        self._states = self._states[goes_on]
        self._lanes, self._lots = phase.lanes, phase.lots
        blocks = self._blocks[phase.lanes]
        for pace in self._paces:
            at = np.flatnonzero(blocks == pace.block)
            pace.lanes = slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0)

    def read(self, rows: Ints) -> Ints:
        """Return the next number of each lane; `rows` are its tables' numbers << `ROW_BITS`."""
        states = self._states
        wanted = (states & 0xFFFF) + rows
        cells = self._below.reshape(-1)[1:].searchsorted(wanted, "right")
        states >>= tables.PROBABILITY_BITS
        states *= self._frequencies.take(cells)
        wanted -= self._below.take(cells)
        states += wanted
        (low,) = (states < lanes.LOWEST).nonzero()
        if len(low):
            self._refill(low)
        self._step += 1
        for pace in self._paces:
            pace.came.append(cells[pace.lanes])
            if self._step % pace.block == 0:
                self._adapt(pace)
        return (cells & (tables.SYMBOLS - 1)) - tables.CENTRE

    def _refill(self, low: Ints) -> None:
        if len(self._next) == 1:
            at = self._next + np.arange(len(low))
            self._next += len(low)
        else:
            lots = self._lots[low]
            counts = np.bincount(lots, minlength=len(self._next))
            firsts = self._next + counts - counts.cumsum()
            at = firsts[lots] + np.arange(len(low))
            self._next += counts
        self._states[low] = self._states[low] << 16 | self._words.take(at, mode="clip")

    def _adapt(self, pace: _Pace) -> None:
        cells = np.concatenate(pace.came)
        pace.came.clear()
        contexts, symbols = cells >> _SYMBOL_BITS, cells & (tables.SYMBOLS - 1)
        self._renew(tables.count(self._counts, contexts, symbols))

    def _renew(self, touched: Ints) -> None:
        fresh = tables.frequencies(self._counts[touched])
        self._frequencies[touched] = fresh
        below = np.cumsum(fresh, axis=1) - fresh
        self._below[touched] = below + (touched << ROW_BITS)[:, None]

    def finish(self) -> None:
        """Return if every lane ended where it must. Raises PatchFormatError."""
        _check_states(self._states)
        if (self._next != self._ends).any():
            raise PatchFormatError(_WRONG_END)


_WRONG_END = "the patch is damaged: its coded elements end in the wrong place"


def _check_states(states: Ints) -> None:
    if (states != lanes.LOWEST).any():
        raise PatchFormatError(_WRONG_END)


class Bits:
    """Bits as they are, lowest first."""

    def __init__(self, coded: Sequence[Coded]) -> None:
        sizes = np.array([len(one.bits) for one in coded], np.int64)
        data = b"".join(one.bits for one in coded) + bytes(8)
        self._windows = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))
        self._last = len(data) - 8
        self._ends = 8 * np.cumsum(sizes)
        self._next = self._ends - 8 * sizes

    def narrow(self, phase: Phase) -> None:
        """Go on with the lanes of `phase`."""
        self._present, self._firsts, self._places = np.unique(
            phase.lots, return_index=True, return_inverse=True
        )

    def read(self, widths: Ints) -> Ints:
        """Return the next number of each lane, of `widths` up to 40 bits."""
        before = np.cumsum(widths) - widths
        starts = self._next[self._present] - before[self._firsts]
        self._next[self._present] += np.add.reduceat(widths, self._firsts)
        return self._read(starts[self._places] + before, widths)

    def read_one(self, lot: int, width: int) -> int:
        """Return the next number of one lot."""
        at = self._next[lot : lot + 1].copy()
        self._next[lot] += width
        return int(self._read(at, np.array([width], np.int64))[0])

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
