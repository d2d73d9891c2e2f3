"""From a record and the old file to lots, and from their codes to bytes of the new file.

Encoder and decoder run the same generator: it asks for the codes of one lot after the other,
and builds each from what the earlier ones made. So both see the same predictions.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgec_bundle.delta.tensor import numbers, record, tables
from edgec_bundle.delta.tensor.lot import MASK, TAPS, Lot
from edgec_bundle.delta.tensor.numbers import Ints, bytes_for
from edgec_bundle.delta.tensor.record import Add, Copy, Delta, Literal, Record, Segment
from edgec_bundle.errors import PatchFormatError
from edgec_bundle.store import BlobReader

RATIO_BITS = 16
MASK_MANTISSA_BITS = 3  # of a float's magnitude, for the contexts of a mask
_RATIO_UNIT_BITS = 6  # ratios of integers come in 1/1024
_RATIO_ACTIVITY = 44
_NONE = np.empty(0, np.int64)
ALIVE, ZERO, OTHER_ZERO = range(3)  # a mask's numbers: zero or kept; zero of the other sign


class Earlier(Protocol):
    """Bytes of the new file that were made by earlier records."""

    def get(self, offset: int, size: int) -> bytes:
        """Return them. Raises PatchFormatError if they were not kept."""


Requests = Generator[tuple[int, Lot], Ints, list[bytes | Copy]]


def assemble(contents: Record, start: int, old: BlobReader, earlier: Earlier) -> Requests:
    """Ask for the codes of each lot of a record, and return what its segments make, in order.

    Yields the number of a lot and what is known of it; wants its codes sent. Copies are left
    to the caller.

    Args:
        contents: the record.
        start: where in the new file it starts.

    Raises:
        PatchFormatError: it reads outside of the old file, or what isn't there yet.
    """
    return _Assembly(contents, start, old, earlier).run()


@dataclass(slots=True)
class _Part:
    """A delta on its way: its old elements as codes, and what was found out about its new ones."""

    delta: Delta
    place: int  # among the segments
    reference: Ints
    ratios: Ints
    weights: Ints  # [kernel - 1, TAPS]
    mask: Ints


class _Assembly:
    def __init__(self, contents: Record, start: int, old: BlobReader, earlier: Earlier) -> None:
        self._record = contents
        self._old = old
        self._earlier = earlier
        self._made: list[bytes | Copy | None] = []
        self._starts: list[int] = []
        at = start
        for segment in contents.segments:
            self._starts.append(at)
            at += segment.size

    def run(self) -> Requests:
        self._made = self._plain_segments()
        parts = self._parts()
        scaled = [part for part in parts if part.delta.scaling == record.BY_CHANNEL]
        if scaled:
            counts = [part.delta.channels for part in scaled]
            ratios = yield 0, _plain_lot("int32", sum(counts), _RATIO_ACTIVITY)
            for part, own in zip(scaled, np.split(ratios, np.cumsum(counts)[:-1]), strict=True):
                part.ratios = own
        for number in range(1, len(self._record.lots)):
            masked = [part for part in parts if part.delta.mask == number]
            coded = [part for part in parts if part.delta.lot == number]
            if bool(masked) == bool(coded):
                raise PatchFormatError("expected each lot to be of one kind")
            if masked:
                yield from self._run_mask(number, masked)
            else:
                yield from self._run_lot(number, coded)
        return [made for made in self._made if made is not None]

    def _plain_segments(self) -> list[bytes | Copy | None]:
        literal_at = difference_at = 0
        made: list[bytes | Copy | None] = []
        for segment in self._record.segments:
            match segment:
                case Literal(size):
                    made.append(self._record.literals[literal_at : literal_at + size])
                    literal_at += size
                case Add(size, offset):
                    base = np.frombuffer(self._pread(offset, size), np.uint8)
                    differences = self._record.differences[difference_at : difference_at + size]
                    made.append((base + np.frombuffer(differences, np.uint8)).tobytes())
                    difference_at += size
                case Copy(size, offset):
                    if offset + size > self._old.size:
                        raise PatchFormatError("expected the patch to read inside of the old file")
                    made.append(segment)
                case _:
                    made.append(None)
        return made

    def _parts(self) -> list[_Part]:
        parts, at = [], 0
        for place, delta in enumerate(self._record.segments):
            if isinstance(delta, Delta):
                weights = np.frombuffer(self._record.weights, np.int8, delta.weights, at)
                at += delta.weights
                rows = _weight_rows(weights.astype(np.int64), delta.kernel)
                parts.append(_Part(delta, place, _NONE, _NONE, rows, _NONE))
        return parts

    def _run_mask(self, number: int, parts: Sequence[_Part]) -> Generator[tuple[int, Lot], Ints]:
        contexts = []
        for part in parts:
            part.reference = self._reference(part.delta)
            contexts.append(mask_contexts(part.reference, part.delta))
        joined = np.concatenate(contexts)
        codes = yield number, _mask_lot(joined)
        ends = np.cumsum([len(one) for one in contexts])[:-1]
        for part, own in zip(parts, np.split(codes, ends), strict=True):
            if ((own < ALIVE) | (own > (ZERO if part.delta.kept else OTHER_ZERO))).any():
                raise PatchFormatError("expected a mask of known numbers")
            part.mask = own

    def _run_lot(self, number: int, parts: Sequence[_Part]) -> Generator[tuple[int, Lot], Ints]:
        if len({part.delta.dtype for part in parts}) != 1:
            raise PatchFormatError("expected each lot to be of one kind")
        pieces = [self._piece(part) for part in parts]
        counts = [len(piece[0]) for piece in pieces]
        codes = yield number, _joined(parts, pieces, counts)
        for part, own in zip(parts, np.split(codes, np.cumsum(counts)[:-1]), strict=True):
            codes_ = unfolded_kernel(own, part.delta)
            if part.delta.mask:
                codes_ = _unmasked(own, part)
            self._made[part.place] = numbers.bytes_of(codes_, part.delta.dtype)
            part.reference = part.mask = _NONE

    def _piece(self, part: _Part) -> tuple[Ints, Ints, Ints]:
        """Return fixed predictions, reference codes and their fixed values, in coding order."""
        delta = part.delta
        reference = part.reference if delta.mask else self._reference(delta)
        fixed = numbers.fixed_of(reference, delta.dtype, delta.exponent)
        base = scaled(fixed, delta, self._ratios(part))
        if delta.mask:
            alive = part.mask == ALIVE
            base, reference, fixed = base[alive], reference[alive], fixed[alive]
        base = folded_kernel(base, delta)
        if not numbers.is_float(delta.dtype):
            return base, base, base  # the other two count for floats only
        return base, folded_kernel(reference, delta), folded_kernel(fixed, delta)

    def _ratios(self, part: _Part) -> Ints:
        delta = part.delta
        if delta.scaling == record.BY_SCALES:
            old = np.frombuffer(self._pread(delta.first, 4 * delta.count), "<f4")
            new = np.frombuffer(self._new(delta.second, 4 * delta.count), "<f4")
            return scale_ratios(old, new)
        return part.ratios

    def _reference(self, delta: Delta) -> Ints:
        if delta.reference in (record.PRODUCT, record.QUOTIENT):
            first = self._floats(delta.first, delta.count)
            second = self._floats(delta.second, 1 if delta.single else delta.count)
            return derived(first, second, delta.reference)
        if delta.reference != record.OLD_FILE:
            return np.zeros(delta.count, np.int64)
        data = self._pread(delta.old, bytes_for(delta.dtype, delta.known))
        codes = numbers.codes_of(data, delta.dtype)
        if delta.known < delta.count:
            codes = np.concatenate((codes, np.zeros(delta.count - delta.known, np.int64)))
        return codes

    def _floats(self, offset: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.frombuffer(self._new(offset, 4 * count), "<f4")

    def _new(self, offset: int, size: int) -> bytes:
        """Return bytes of the new file that were made already."""
        place = int(np.searchsorted(self._starts, offset, "right")) - 1
        if place < 0:
            return self._earlier.get(offset, size)
        made, at = self._made[place], offset - self._starts[place]
        segment: Segment = self._record.segments[place]
        if made is None or at + size > segment.size:
            raise PatchFormatError("expected the patch to refer to what was made already")
        return self._pread(made.old + at, size) if isinstance(made, Copy) else made[at : at + size]

    def _pread(self, offset: int, size: int) -> bytes:
        if offset + size > self._old.size:
            raise PatchFormatError("expected the patch to read inside of the old file")
        data = self._old.pread(size, offset)
        if len(data) != size:
            raise PatchFormatError("expected the old file to keep its size")
        return data


def scaled(fixed: Ints, delta: Delta, ratios: Ints) -> Ints:
    """Return `fixed` times what `ratios` say for each element."""
    if delta.scaling == record.UNSCALED:
        return fixed
    if delta.scaling == record.BY_SCALES:
        return fixed * ratios >> RATIO_BITS
    shift = 0 if numbers.is_float(delta.dtype) else _RATIO_UNIT_BITS
    factors = (1 << RATIO_BITS) + (np.clip(ratios, -(1 << 16), 1 << 16) << shift)
    limited = np.clip(factors, -2 << RATIO_BITS, 2 << RATIO_BITS)
    product: Ints = fixed * _spread(limited, delta)
    product >>= RATIO_BITS
    return product


def _spread(factors: Ints, delta: Delta) -> Ints:
    """Return the factor of each element."""
    first = delta.phase // delta.inner
    needed = (delta.phase + delta.count - 1) // delta.inner + 1 - first
    whole = np.resize(np.roll(factors, -(first % delta.channels)), needed)
    if needed == 1:
        return whole
    skipped = delta.phase - first * delta.inner
    ends = np.minimum(np.arange(1, needed + 1) * delta.inner - skipped, delta.count)
    return np.repeat(whole, np.diff(ends, prepend=0))


def scale_ratios(
    old: np.ndarray[tuple[int], np.dtype[np.float32]],
    new: np.ndarray[tuple[int], np.dtype[np.float32]],
) -> Ints:
    """Return old over new in 1/65536, from 0 to 2; 1 where that makes no sense."""
    with np.errstate(all="ignore"):
        ratios = np.rint(old.astype(np.float64) / new.astype(np.float64) * (1 << RATIO_BITS))
        sound = (ratios >= 0) & (ratios <= 2 << RATIO_BITS)
        return np.where(sound, ratios, float(1 << RATIO_BITS)).astype(np.int64)


def derived(
    first: np.ndarray[tuple[int], np.dtype[np.float32]],
    second: np.ndarray[tuple[int], np.dtype[np.float32]],
    kind: int,
) -> Ints:
    """Return the codes of the product or quotient of two float32 vectors."""
    with np.errstate(all="ignore"):
        values = first * second if kind == record.PRODUCT else first / second
    values = np.where(np.isnan(values), np.float32(0), values)
    return numbers.codes_of(values.astype("<f4").tobytes(), "float32")


def folded_kernel(values: Ints, delta: Delta) -> Ints:
    """Return `values` in the order of coding: the kernel's axis last."""
    if delta.inner_size == 1 or delta.mask:
        return values
    return values.reshape(-1, delta.kernel, delta.inner_size).swapaxes(1, 2).reshape(-1)


def unfolded_kernel(values: Ints, delta: Delta) -> Ints:
    """Return `values` in the order of the file; the inverse of `folded_kernel`."""
    if delta.inner_size == 1 or delta.mask:
        return values
    return values.reshape(-1, delta.inner_size, delta.kernel).swapaxes(1, 2).reshape(-1)


def mask_contexts(reference: Ints, delta: Delta) -> Ints:
    """Return which table predicts each element of a mask: by the size of the old value."""
    return np.clip(mask_sizes(reference, delta) - delta.mask_base, 0, tables.CONTEXTS - 1)


def mask_sizes(reference: Ints, delta: Delta) -> Ints:
    """Return the sizes of integers, or of floats eight times their binary logarithm, roughly."""
    if not numbers.is_float(delta.dtype):
        return np.abs(reference)
    sizes = np.where(reference < 0, ~reference, reference)
    return sizes >> numbers.mantissa_bits(delta.dtype) - MASK_MANTISSA_BITS


def _unmasked(codes: Ints, part: _Part) -> Ints:
    """Return all codes of a tensor, from its mask and those of its other elements."""
    if part.delta.kept:
        kept = part.reference.copy()
        kept[part.mask == ALIVE] = codes
        return kept
    other = part.mask == OTHER_ZERO
    is_negative = (part.reference < 0) != other
    zero = -1 if numbers.is_float(part.delta.dtype) else 0
    found = np.where(is_negative, zero, 0)
    found[part.mask == ALIVE] = codes
    return found


def _weight_rows(weights: Ints, kernel: int) -> Ints:
    """Return [kernel - 1, TAPS]: the weights of each place but the first, nearest element first."""
    rows = np.zeros((kernel - 1, TAPS), np.int64)
    at = 0
    for place in range(1, kernel):
        count = min(place, TAPS)
        rows[place - 1, :count] = weights[at : at + count]
        at += count
    return rows


def _joined(
    parts: Sequence[_Part], pieces: Sequence[tuple[Ints, Ints, Ints]], counts: Sequence[int]
) -> Lot:
    deltas = [part.delta for part in parts]
    rows, coefficients = _rows(parts, counts)
    return Lot(
        deltas[0].dtype,
        _together([base for base, _, _ in pieces]),
        _together([reference for _, reference, _ in pieces]),
        _together([fixed for _, _, fixed in pieces]),
        rows,
        coefficients,
        *_starts(deltas, counts),
        _NONE,
    )


def _rows(parts: Sequence[_Part], counts: Sequence[int]) -> tuple[npt.NDArray[np.int16], Ints]:
    """Return which row of weights each element has, and the rows."""
    rows = np.zeros(sum(counts), np.int16)
    coefficients = [np.zeros((1, TAPS), np.int64)]
    start = below = 0
    for part, count in zip(parts, counts, strict=True):
        if part.delta.kernel > 1:
            own = np.arange(below, below + part.delta.kernel)
            own[0] = 0
            rows[start : start + count] = np.resize(own, count)
            coefficients.append(part.weights)
            below += len(part.weights)
        start += count
    return rows, np.concatenate(coefficients)


def _together(arrays: Sequence[Ints]) -> Ints:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _starts(deltas: Sequence[Delta], counts: Sequence[int]) -> tuple[Ints, Ints, Ints]:
    """Return starts, activities and exponents of the segments that have elements."""
    rows = [
        (start, delta.activity, delta.exponent)
        for start, count, delta in zip(np.cumsum([0, *counts]), counts, deltas, strict=False)
        if count
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return columns[0], columns[1], columns[2]


def _mask_lot(contexts: Ints) -> Lot:
    no_rows = np.empty(0, np.int16)
    return Lot(MASK, _NONE, _NONE, _NONE, no_rows, _NONE, _NONE, _NONE, _NONE, contexts)


def _plain_lot(dtype: str, count: int, activity: int) -> Lot:
    zeros = np.zeros(count, np.int64)
    one = np.zeros(1, np.int64)
    no_taps = np.zeros((1, TAPS), np.int64)
    rows = np.zeros(count, np.int16)
    return Lot(dtype, zeros, zeros, zeros, rows, no_taps, one, one + activity, one, _NONE)
