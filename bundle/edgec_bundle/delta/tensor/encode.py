"""Making the body of a tensor patch, record by record, in memory that doesn't grow with it."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgec_bundle.delta.header import write_varint
from edgec_bundle.delta.tensor import assembly, coders, fit, numbers, record, skeleton
from edgec_bundle.delta.tensor.applying import MAX_KEPT_BYTES, MAX_KEPT_RANGES, VERSION, Kept
from edgec_bundle.delta.tensor.assembly import ALIVE, OTHER_ZERO, ZERO
from edgec_bundle.delta.tensor.lanes import MAX_LANES, MAX_STEPS
from edgec_bundle.delta.tensor.lot import MASK, MAX_ELEMENTS, Lot
from edgec_bundle.delta.tensor.model import Bytes
from edgec_bundle.delta.tensor.numbers import Ints, bytes_for
from edgec_bundle.delta.tensor.plan import Derivation, Step, Work, plan
from edgec_bundle.delta.tensor.record import (
    MAX_COPY_BYTES,
    MAX_MADE_BYTES,
    NOTHING,
    OLD_FILE,
    Add,
    Copy,
    Delta,
    Literal,
    Record,
    Segment,
)

_MOST_SEGMENTS = 2048
_LEVELS = (19, 12)  # of zstd: for files of up to 8 MiB, and above
_LARGE_BYTES = 8 << 20
_BYTES_PER_LANE = 400
_PLANES_ELEMENTS = 64 << 10  # of a record without lanes: less memory, and quicker
_USUAL, _STRANGE, _KEPT = range(3)  # kinds of deltas, each in lots of its own
_SMALL_LOT = 64 << 10  # elements: up to here the planes are always tried as well
_PROBE_LEVEL, _HOPEFUL = 1, 1.06  # beyond, if a quick try comes that near to what lanes make


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a tensor that is small enough for a record."""

    work: Work
    first: int  # element
    count: int
    offset: int  # in the new file

    @property
    def size(self) -> int:
        """How many bytes of the new file it makes."""
        return bytes_for(self.work.tensor.dtype, self.count)


Part = Copy | Add | Literal | Piece


@dataclass(frozen=True, slots=True)
class Group:
    """The parts of one record."""

    start: int
    parts: tuple[Part, ...]

    @property
    def end(self) -> int:
        """Where in the new file it ends."""
        return self.start + sum(part.size for part in self.parts)


class SliceReader:
    """A `BlobReader` over bytes in memory or in a mapped file."""

    def __init__(self, data: Bytes) -> None:
        self._data = data
        self.size: int = len(data)

    def pread(self, n: int, offset: int) -> bytes:
        """Return `n` bytes from `offset`; fewer only where they end."""
        return bytes(self._data[offset : offset + n])

    def read(self) -> bytes:
        """Return all bytes."""
        return self.pread(self.size, 0)


def encode(
    old: Bytes, new: Bytes, allowed: frozenset[int], record_elements: int | None = None
) -> Iterator[bytes]:
    """Return the body of a patch that makes `new` from `old`, piece by piece.

    Takes some 40 MiB beside the two files, which may be mapped, and what lies between their
    tensors. `allowed` are the coders of `coders`; a record holds at most `record_elements`.
    """
    usual = MAX_ELEMENTS if coders.RANS in allowed else _PLANES_ELEMENTS
    groups = list(_groups(plan(old, new), min(record_elements or usual, MAX_ELEMENTS)))
    ranges = _kept_ranges(groups)
    yield bytes([VERSION]) + _range_list(ranges)
    kept = Kept(ranges)
    for group in groups:
        payload = _Encoder(old, new, group, kept, allowed).payload()
        crc32 = _crc32(new, group.start, group.end)
        head = write_varint(group.end - group.start) + write_varint(len(payload))
        yield head + crc32.to_bytes(4, "little") + payload
        for start in range(group.start, group.end, MAX_MADE_BYTES):
            kept.add(start, bytes(new[start : min(group.end, start + MAX_MADE_BYTES)]))


def _groups(steps: Sequence[Step], most: int) -> Iterator[Group]:
    """Return the steps cut into pieces, and these put together as records."""
    start = at = 0
    parts: list[Part] = []
    made = copied = elements = 0
    for part in _parts(steps, most):
        count = part.count if isinstance(part, Piece) else 0
        is_copy = isinstance(part, Copy)
        if parts and (
            made + (0 if is_copy else part.size) > MAX_MADE_BYTES
            or copied + (part.size if is_copy else 0) > MAX_COPY_BYTES
            or elements + count > most
            or len(parts) >= _MOST_SEGMENTS
        ):
            yield Group(start, tuple(parts))
            start, parts, made, copied, elements = at, [], 0, 0, 0
        parts.append(part)
        made, copied = (made, copied + part.size) if is_copy else (made + part.size, copied)
        elements += count
        at += part.size
    if parts:
        yield Group(start, tuple(parts))


def _parts(steps: Sequence[Step], most: int) -> Iterator[Part]:
    at = 0
    for step in steps:
        if isinstance(step, Work):
            for first, count in fit.piece_sizes(step.tensor, most):
                yield Piece(step, first, count, at + bytes_for(step.tensor.dtype, first))
        else:
            yield from skeleton.pieces(step, MAX_COPY_BYTES if isinstance(step, Copy) else 1 << 18)
        at += step.size


def _kept_ranges(groups: Sequence[Group]) -> list[tuple[int, int]]:
    """Return what of the new file later records refer to, disjoint and in order."""
    wanted: set[tuple[int, int]] = set()
    for group in groups:
        for part in group.parts:
            if isinstance(part, Piece):
                wanted |= {one for one in _operands(part) if sum(one) <= group.start}
    ranges: list[tuple[int, int]] = []
    total = 0
    for start, size in sorted(wanted):
        is_new = not ranges or start >= sum(ranges[-1])
        if is_new and len(ranges) < MAX_KEPT_RANGES and total + size <= MAX_KEPT_BYTES:
            ranges.append((start, size))
            total += size
    return ranges


def _operands(piece: Piece) -> list[tuple[int, int]]:
    """Return the ranges of the new file that the prediction of a piece may use."""
    found, work = [], piece.work
    if piece.count == work.tensor.elements:
        if work.derivation is not None:
            found += [(work.derivation.first, 4 * piece.count), (work.derivation.second, 4)]
        if work.scales is not None:
            found.append((work.scales[1], 4 * piece.count))
    return found


def _range_list(ranges: Sequence[tuple[int, int]]) -> bytes:
    data, end = write_varint(len(ranges)), 0
    for start, size in ranges:
        data += write_varint(start - end) + write_varint(size)
        end = start + size
    return data


class _Encoder:
    """One record on its way."""

    def __init__(
        self, old: Bytes, new: Bytes, group: Group, kept: Kept, allowed: frozenset[int]
    ) -> None:
        self._old = old
        self._new = new
        self._group = group
        self._kept = kept
        self._allowed = allowed
        self._level = _LEVELS[len(new) > _LARGE_BYTES]
        self._fitted: list[fit.Fitted] = []
        self._bits: dict[int, float] = {}
        self._strangers: set[int] = set()  # lots of floats that nothing predicts: lanes lose there

    def payload(self) -> bytes:
        """Return the record's bytes."""
        segments, literals, differences = self._segments()
        segments = self._numbered(segments)
        deltas = [one for one in segments if isinstance(one, Delta)]
        lot_count = 1 + max((one.lot for one in deltas), default=-1)
        weights = b"".join(one.weights.tobytes() for one in self._fitted)
        contents = Record(segments, literals, differences, weights, (b"",) * lot_count)
        lots = self._lots(contents)
        return replace(contents, lots=lots).to_bytes(self._level)

    def _segments(self) -> tuple[tuple[Segment, ...], bytes, bytes]:
        segments: list[Segment] = []
        literals, differences = bytearray(), bytearray()
        at = self._group.start
        for part in self._group.parts:
            data = b"" if isinstance(part, Copy | Piece) else self._new[at : at + part.size]
            match part:
                case Piece():
                    fitted = self._fit(part)
                    self._fitted.append(fitted)
                    segments.append(fitted.delta)
                case Literal():
                    literals += data
                    segments.append(part)
                case Add(size, old):
                    base = np.frombuffer(self._old[old : old + size], np.uint8)
                    differences += (np.frombuffer(data, np.uint8) - base).tobytes()
                    segments.append(part)
                case _:
                    segments.append(part)
            at += part.size
        return tuple(segments), bytes(literals), bytes(differences)

    def _fit(self, piece: Piece) -> fit.Fitted:
        dtype, count = piece.work.tensor.dtype, piece.count
        new = numbers.codes_of(bytes(self._new[piece.offset : piece.offset + piece.size]), dtype)
        taps = coders.RANS in self._allowed
        shape = replace(fit.shape_of(piece.work.tensor), phase=piece.first)
        if all(self._is_made(*operand) for operand in _operands(piece)):
            if piece.work.derivation is not None:
                return self._fit_derived(piece, piece.work.derivation, new)
            scales = piece.work.scales
        else:
            scales = None
        olds = [self._old_codes(piece, source.offset, source.size) for source in piece.work.sources]
        best = fit.likeliest([codes for codes, _, _ in olds], new, dtype)
        if best is None:
            zeros = np.zeros(count, np.int64)
            return fit.fit(Delta(dtype, count, 1, NOTHING), shape, zeros, new, None, taps)
        old, offset, known = olds[best]
        delta = Delta(dtype, count, 1, OLD_FILE, old=offset, known=known)
        ratios = None
        if scales is not None and known == count:
            ratios = self._scale_ratios(scales, count)
        fitted = fit.fit(delta, shape, old, new, ratios, taps)
        if fitted.delta.scaling == record.BY_SCALES and scales is not None:
            scaled = replace(fitted.delta, first=scales[0], second=scales[1])
            fitted = replace(fitted, delta=scaled)
        return fitted

    def _fit_derived(self, piece: Piece, how: Derivation, new: Ints) -> fit.Fitted:
        first, second = (
            np.frombuffer(self._new[at : at + size], "<f4")
            for at, size in ((how.first, piece.size), (how.second, 4))
        )
        reference = assembly.derived(first, second, how.kind)
        delta = Delta(
            "float32", piece.count, 1, how.kind, first=how.first, second=how.second, single=True
        )
        return fit.fit(delta, fit.Shape(0, 0, ()), reference, new, None, False)

    def _is_made(self, offset: int, size: int) -> bool:
        """Return whether a decoder will have these bytes when it predicts this record."""
        if offset + size <= self._group.start:
            return self._kept.has(offset, size)
        at = self._group.start
        for part in self._group.parts:
            if at <= offset and offset + size <= at + part.size:
                return not isinstance(part, Piece) or part.work.derivation is None or size > 4
            at += part.size
        return False

    def _old_codes(self, piece: Piece, offset: int, size: int) -> tuple[Ints, int, int]:
        """Return codes, their place and how many are known, of a piece of an old tensor."""
        dtype = piece.work.tensor.dtype
        skipped = bytes_for(dtype, piece.first)
        known = max(0, min(piece.size, size - skipped))
        start = offset + min(skipped, size)
        codes = np.zeros(piece.count, np.int64)
        found = numbers.codes_of(bytes(self._old[start : start + known]), dtype)
        codes[: len(found)] = found
        return codes, start, len(found)

    def _scale_ratios(self, scales: tuple[int, int], count: int) -> Ints:
        old = np.frombuffer(self._old[scales[0] : scales[0] + 4 * count], "<f4")
        new = np.frombuffer(self._new[scales[1] : scales[1] + 4 * count], "<f4")
        return assembly.scale_ratios(old, new)

    def _numbered(self, segments: Sequence[Segment]) -> tuple[Segment, ...]:
        """Return the segments with their lots: by what they wait for, dtype, and kind."""
        deltas = [one for one in segments if isinstance(one, Delta)]
        keys = sorted({key for one in deltas for key in _keys(one)})
        lots = {key: number for number, key in enumerate(keys, 1)}
        self._strangers = {
            lots[key] for key in keys if key[2] == _STRANGE and numbers.is_float(key[1])
        }
        found: list[Segment] = []
        fitted = iter(self._fitted)
        for one in segments:
            if isinstance(one, Delta):
                mask, lot = (lots[key] for key in (_keys(one)[0], _keys(one)[-1]))
                self._bits[lot] = self._bits.get(lot, 0.0) + next(fitted).bits
                one = replace(one, lot=lot, mask=mask if one.mask else 0)
            found.append(one)
        return tuple(found)

    def _lots(self, contents: Record) -> tuple[bytes, ...]:
        """Return the coded lots, running the decoder's own assembly over the new codes."""
        old = SliceReader(self._old)
        requests = assembly.assemble(contents, self._group.start, old, self._kept)
        lots = [b""] * len(contents.lots)
        try:
            number, lot = next(requests)
            while True:
                codes = self._codes(number, lot, contents)
                lots[number] = self._coded(number, lot, codes)
                number, lot = requests.send(codes)
        except StopIteration:
            return tuple(lots)

    def _codes(self, number: int, lot: Lot, contents: Record) -> Ints:
        if number == 0:
            return np.concatenate([one.ratios for one in self._fitted])
        found = []
        at = self._group.start
        for segment in contents.segments:
            if isinstance(segment, Delta) and number in (segment.lot, segment.mask):
                data = bytes(self._new[at : at + segment.size])
                codes = numbers.codes_of(data, segment.dtype)
                found.append(self._wanted(segment, codes, lot.dtype == MASK))
            at += segment.size
        return np.concatenate(found)

    def _wanted(self, delta: Delta, codes: Ints, is_mask: bool) -> Ints:
        if not delta.mask:
            return assembly.folded_kernel(codes, delta)
        data = bytes(self._old[delta.old : delta.old + bytes_for(delta.dtype, delta.known)])
        old = np.zeros(delta.count, np.int64)
        old[: delta.known] = numbers.codes_of(data, delta.dtype)
        is_zero = codes == old if delta.kept else fit.is_zero(codes, delta.dtype)
        if not is_mask:
            return codes[~is_zero]
        if delta.kept:
            return np.where(is_zero, ZERO, ALIVE)
        same = (codes < 0) == (old < 0) if numbers.is_float(delta.dtype) else np.True_
        return np.where(is_zero, np.where(same, ZERO, OTHER_ZERO), ALIVE)

    def _coded(self, number: int, lot: Lot, codes: Ints) -> bytes:
        found = []
        if coders.RANS in self._allowed and lot.count and number not in self._strangers:
            guess = self._bits.get(number, 6.0 * lot.count) / 8
            lane_count = _lane_count(guess, lot.count)
            found += coders.encode_rans([lot], [codes], lane_count)
        if found and lot.count > _SMALL_LOT:
            probe = coders.encode_planes(lot, codes, _PROBE_LEVEL)
            if len(probe) > _HOPEFUL * len(found[0]):
                return found[0]
        found.append(coders.encode_planes(lot, codes, self._level))
        return min(found, key=len)


def _keys(one: Delta) -> tuple[tuple[int, str, int], ...]:
    """Return what tells the lots of a record apart, in the order they are coded in."""
    kind = _STRANGE if one.reference == NOTHING else _KEPT if one.kept else _USUAL
    wave = {record.PRODUCT: 2, record.QUOTIENT: 2}.get(one.reference, 1)
    if one.scaling == record.BY_SCALES:
        wave = 3
    own = (wave, one.dtype, kind)
    return ((0, one.dtype, kind), own) if one.mask else (own,)


def _lane_count(size: float, count: int) -> int:
    """Return a power of two: many lanes are quick, but each costs some bytes."""
    wanted = int(min(size / _BYTES_PER_LANE, MAX_LANES, count / 64))
    least = -(-count // MAX_STEPS)
    return max(1 << max(0, wanted.bit_length() - 1), 1 << (least - 1).bit_length())


def _crc32(data: Bytes, start: int, end: int) -> int:
    crc32 = 0
    for at in range(start, end, MAX_MADE_BYTES):
        crc32 = zlib.crc32(data[at : min(end, at + MAX_MADE_BYTES)], crc32)
    return crc32
