"""The lanes of several lots in one row, so that numpy runs all of them at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgec_bundle.delta.tensor.lanes import Coded, Geometry, first_activity
from edgec_bundle.delta.tensor.lot import MASK, Lot
from edgec_bundle.delta.tensor.numbers import Ints


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps in which the same lanes have elements."""

    first: int
    end: int
    lanes: Ints  # [n], which of the row, growing
    lots: Ints  # [n], whose they are


@dataclass(frozen=True, slots=True)
class Reset:
    """What forgets before a step."""

    lanes: Ints
    activities: Ints


class Row:
    """The lanes of all lots, lot by lot; elements are numbered through as well."""

    def __init__(self, lots: Sequence[Lot], coded: Sequence[Coded]) -> None:
        self._lots = lots
        self.geometries = [
            Geometry(lot.count, one.lanes) for lot, one in zip(lots, coded, strict=True)
        ]
        counts = np.array([lot.count for lot in lots], np.int64)
        self.offsets = np.cumsum(counts) - counts  # of the lots' elements
        pairs = list(zip(self.geometries, self.offsets, strict=True))
        self.starts = np.concatenate([one.starts() + offset for one, offset in pairs])
        self.lots = np.repeat(np.arange(len(lots)), [one.lanes for one in self.geometries])
        self._lengths = np.concatenate(
            [np.full(one.lanes, one.count // one.lanes) for one in self.geometries]
        )
        lane = np.concatenate([np.arange(one.lanes) for one in self.geometries])
        self._lengths += lane < np.array([n.count % n.lanes for n in self.geometries])[self.lots]

    def phases(self) -> Iterator[Phase]:
        """Return the phases in order."""
        first = 0
        for end in np.unique(self._lengths).tolist():
            lanes = np.flatnonzero(self._lengths > first)
            yield Phase(first, end, lanes, self.lots[lanes])
            first = end

    def resets(self) -> dict[int, Reset]:
        """Return by step what forgets before it: lanes at their start and at another segment's."""
        found: list[tuple[Ints, Ints, Ints]] = []
        first_lane = 0
        for lot, geometry in zip(self._lots, self.geometries, strict=True):
            if lot.dtype != MASK:
                starts = geometry.starts()
                elements = np.union1d(starts, lot.starts)
                lanes = np.searchsorted(starts, elements, "right") - 1
                segments = np.searchsorted(lot.starts, elements, "right") - 1
                activities = first_activity(lot.activities[segments])
                found.append((elements - starts[lanes], lanes + first_lane, activities))
            first_lane += geometry.lanes
        steps, lanes, activities = (np.concatenate(one) for one in zip(*found, strict=True))
        order = np.argsort(steps, kind="stable")
        each, firsts = np.unique(steps[order], return_index=True)
        parts = (np.split(one[order], firsts[1:]) for one in (lanes, activities))
        return {
            step: Reset(lane, activity)
            for step, lane, activity in zip(each.tolist(), *parts, strict=True)
        }
