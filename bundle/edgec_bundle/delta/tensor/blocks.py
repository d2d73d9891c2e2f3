"""Aligning long byte strings in time and memory that grow with their length alone.

bsdiff sorts every suffix of the old bytes; here only every 32nd place of them is remembered, by a
hash of the 32 bytes there, and looked for at every place of the new ones, as rsync does. What was
found is followed in both directions for as long as at least half of the bytes agree.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor.numbers import Ints

_BLOCK = 32
_CHUNK = 256 << 10  # of the new bytes, hashed at once
_STRETCH = 64  # bytes of which half must agree, if an alignment is to go on
_FIRST_LOOK, _LONGEST_LOOK = 1 << 10, 1 << 20
_MOST_FOUND = 1 << 17  # so that no file takes minutes
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)

Octets = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]


def aligned(old: bytes, new: bytes) -> Iterator[tuple[int, int, int | None]]:
    """Return (place, size, place in old or None) that together make `new`."""
    before, after = np.frombuffer(old, np.uint8), np.frombuffer(new, np.uint8)
    known = _Known(old)
    at = found = 0
    shift = 0  # from a place of `new` to the one in `old` that the last alignment would go on at
    while at < len(new):
        size = _agreeing(before, after, at, shift)
        if size:
            yield at, size, at + shift
            at += size
            continue
        place, source = known.first(new, at) if found < _MOST_FOUND else (len(new), 0)
        found += 1
        place, source = _backwards(before, after, at, place, source)
        if place > at:
            yield at, place - at, None
        at, shift = place, source - place


def _agreeing(old: Octets, new: Octets, at: int, shift: int) -> int:
    """Return for how many bytes it is worth to compare `new` from `at` on with `old`."""
    total, look = 0, _FIRST_LOOK
    while True:
        start = at + total
        size = min(look, len(new) - start, len(old) - start - shift)
        if start + shift < 0 or size <= 0:
            return total
        same = new[start : start + size] == old[start + shift : start + shift + size]
        edges = np.arange(0, size, _STRETCH)
        lengths = np.minimum(size - edges, _STRETCH)
        lost = np.add.reduceat(same, edges, dtype=np.int64) * 2 < lengths
        if lost.any():
            return total + _last(same, int(edges[int(lost.argmax())]), total == 0)
        total, look = total + size, min(2 * look, _LONGEST_LOOK)


def _last(same: npt.NDArray[np.bool_], end: int, is_start: bool) -> int:
    """Return `end`, and as many bytes more as agree without a break."""
    rest = same[end : end + _STRETCH]
    more = len(rest) if rest.all() else int(rest.argmin())
    return 0 if is_start and end + more < _BLOCK else end + more


def _backwards(old: Octets, new: Octets, at: int, place: int, source: int) -> tuple[int, int]:
    """Return `place` and `source` moved back for as far as the bytes before them agree."""
    most = min(place - at, source)
    same = new[place - most : place] == old[source - most : source]
    steps = most if same.all() else int(same[::-1].argmin())
    return place - steps, source - steps


class _Known:
    """Where in `old` each block is first, and the places of `new` that have one of them."""

    def __init__(self, old: bytes) -> None:
        self._old = old
        starts = [_hashes(old, start, _BLOCK) for start in range(0, len(old), _CHUNK)]
        hashes = np.concatenate(starts) if starts else np.empty(0, np.uint64)
        self._hashes, self._blocks = np.unique(hashes, return_index=True)
        self._chunk = -1
        self._places: Ints = np.empty(0, np.int64)
        self._sources: Ints = self._places

    def first(self, new: bytes, at: int) -> tuple[int, int]:
        """Return the first place from `at` on that has a known block, and where that is.

        Returns:
            (len(new), 0) if there is none.
        """
        for chunk in range(at // _CHUNK, -(-len(new) // _CHUNK)):
            self._look_up(new, chunk)
            for index in range(int(np.searchsorted(self._places, at)), len(self._places)):
                place, source = int(self._places[index]), int(self._sources[index])
                if self._old[source : source + _BLOCK] == new[place : place + _BLOCK]:
                    return place, source
        return len(new), 0

    def _look_up(self, new: bytes, chunk: int) -> None:
        if chunk == self._chunk or not len(self._hashes):
            return
        start = chunk * _CHUNK
        hashes = _hashes(new, start, 1)
        index = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        hits = np.flatnonzero(self._hashes[index] == hashes)
        self._chunk, self._places = chunk, hits + start
        self._sources = self._blocks[index[hits]].astype(np.int64) * _BLOCK


def _hashes(data: bytes, start: int, step: int) -> Hashes:
    """Return the hashes of the blocks at `start`, and every `step` bytes on, of a chunk."""
    piece = data[start : start + _CHUNK + _BLOCK - 1]
    count = min(_CHUNK, len(piece) - _BLOCK + 1)
    if count <= 0:
        return np.empty(0, np.uint64)
    octets = np.frombuffer(piece, np.uint8)
    found = np.zeros(-(-count // step), np.uint64)
    for word, factor in enumerate(_FACTORS):
        views = np.lib.stride_tricks.sliding_window_view(octets[8 * word :], 8)[:count:step]
        words = np.ascontiguousarray(views).view("<u8")[:, 0]
        found = (found ^ words) * np.uint64(factor)
        found ^= found >> np.uint64(29)
    return found
