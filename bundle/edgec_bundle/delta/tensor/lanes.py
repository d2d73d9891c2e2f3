"""The entropy coder: adaptive rANS in lanes, written so that numpy can run all lanes at once.

The elements of a lot are dealt to K lanes, in stretches of equal length; step t codes the t-th
element of every lane. Each lane predicts its next element from the old file and from its own
last errors, and expects an error of the size of its own recent ones; that expectation picks the
frequency table. All lanes share the tables, which change after every block of steps. Several
lots run side by side, as numpy takes hardly longer for many lanes than for few; the bytes of a
lot don't depend on its neighbours.

docs/reference/delta-tensor.md has every step as a formula; `edgec-accel` has it in C.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgec_bundle.delta.tensor import tables
from edgec_bundle.delta.tensor.lot import MASK, Lot
from edgec_bundle.delta.tensor.numbers import FRACTION_BITS, Ints

MAX_LANES = 256
MAX_STEPS = 1 << 14  # so that a few bytes can't keep numpy busy for minutes
STATE_BYTES = 5
LOWEST = 1 << 24  # of a lane's state; the highest is 2**40 - 1
BLOCK_SYMBOLS = 512
ACTIVITY_BITS = 8  # of fraction, on top of the fixed values'
MAX_ACTIVITY = 1 << 48
MAX_SHIFT = 31
LENGTH_BITS = 6  # of an escape's length
MAX_ESCAPE_BITS = 32  # of an escape and the low bits together
TOP_LEVEL = 5
LOW_LEVEL = TOP_LEVEL + 1 - tables.LEVELS


@dataclass(frozen=True, slots=True)
class Coded:
    """A lot's bytes: what `encode_lots` makes and `decode_lots` takes.

    Attributes:
        states: the lanes' first states, `STATE_BYTES` each, little endian.
        words: what refills the states, 16 bits each, little endian.
        bits: the low bits of large errors, lowest bit first.
    """

    lanes: int
    states: bytes
    words: bytes
    bits: bytes


@dataclass(frozen=True, slots=True)
class Geometry:
    """How `count` elements are dealt to `lanes` lanes."""

    count: int
    lanes: int

    @property
    def steps(self) -> int:
        """How many elements the longest lane has."""
        return -(-self.count // self.lanes)

    @property
    def block(self) -> int:
        """After how many steps the tables change."""
        return max(1, BLOCK_SYMBOLS // self.lanes)

    def starts(self) -> Ints:
        """Return [K], the first element of each lane."""
        lane = np.arange(self.lanes, dtype=np.int64)
        return lane * (self.count // self.lanes) + np.minimum(lane, self.count % self.lanes)

    def active(self, step: int) -> int:
        """Return how many lanes have an element at `step`; they are the first ones."""
        return self.lanes if step < self.count // self.lanes else self.count % self.lanes

    def order(self) -> Ints:
        """Return [count], the elements in the order of coding: by step, then by lane."""
        whole = self.count // self.lanes
        starts = self.starts()
        steps = starts[None, :] + np.arange(whole, dtype=np.int64)[:, None]
        last = starts[: self.count % self.lanes] + whole
        return np.concatenate((steps.reshape(-1), last))


def first_activity(code: Ints) -> Ints:
    """Return the activity that a segment starts with, for its code of 0 to 95."""
    return (2 + (code & 1)) << (code >> 1)


def levels_of(activity: Ints) -> Ints:
    """Return twice the binary logarithm of ``activity + 1``, in whole numbers."""
    words = (activity + 1).astype(np.float32).view(np.int32)
    return (words >> 22).astype(np.int64) - 254


def contexts_of(activity: Ints, scale: int | Ints) -> tuple[Ints, Ints]:
    """Return levels from 0 on, and by how many bits errors are shifted right before coding.

    Args:
        activity: the expected size of the error, in fixed values with `ACTIVITY_BITS` more.
        scale: the binary logarithm of one step of the code, in fixed values.
    """
    return contexts_at(levels_of(activity) - 2 * (scale + ACTIVITY_BITS))


def contexts_at(level: Ints) -> tuple[Ints, Ints]:
    """Return what `contexts_of` does, for levels less the scale's."""
    shift = np.minimum(np.maximum(level - TOP_LEVEL + 1, 0) >> 1, MAX_SHIFT)
    within = np.minimum(np.maximum(level - 2 * shift, LOW_LEVEL), TOP_LEVEL)
    return within - LOW_LEVEL, shift


def mixed(slow: Ints, fast: Ints) -> Ints:
    """Return the expected size of an error from its two running means."""
    return (3 * slow + fast) >> 2


def bucket_of(fraction: Ints) -> Ints:
    """Return 0 to 2: how far the prediction was from the whole number that it became."""
    bucket = np.abs(fraction) * tables.BUCKETS >> (FRACTION_BITS - 1)
    found: Ints = np.minimum(bucket, tables.BUCKETS - 1)
    return found


class Resets:
    """Where lanes forget: at their start, and where another segment starts."""

    def __init__(self, lots: Sequence[Lot], geometry: Geometry) -> None:
        lane_starts = geometry.starts()
        self._at: dict[int, list[tuple[int, int, int]]] = {}
        for row, lot in enumerate(lots):
            if lot.dtype == MASK:
                continue
            elements = np.union1d(lane_starts, lot.starts)
            lanes = np.searchsorted(lane_starts, elements, "right") - 1
            segments = np.searchsorted(lot.starts, elements, "right") - 1
            steps = elements - lane_starts[lanes]
            activities = first_activity(lot.activities[segments])
            for step, lane, activity in zip(steps, lanes, activities, strict=True):
                self._at.setdefault(int(step), []).append((row, int(lane), int(activity)))

    def at(self, step: int) -> tuple[Ints, Ints, Ints] | None:
        """Return rows, lanes and activities of what forgets before `step`."""
        found = self._at.get(step)
        if found is None:
            return None
        rows, lane, activities = np.array(found, np.int64).T
        return rows, lane, activities


def states_of(data: bytes) -> Ints:
    """Return the states in `data`."""
    octets = np.frombuffer(data, np.uint8).reshape(-1, STATE_BYTES).astype(np.int64)
    states: Ints = np.sum(octets << (8 * np.arange(STATE_BYTES)), axis=1, dtype=np.int64)
    return states


def bytes_of_states(states: Ints) -> bytes:
    """Return `states` as bytes; the inverse of `states_of`."""
    return (states[:, None] >> (8 * np.arange(STATE_BYTES)) & 255).astype(np.uint8).tobytes()
