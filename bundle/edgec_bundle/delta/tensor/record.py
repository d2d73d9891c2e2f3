"""Records: each makes the next bytes of the new file from the old one, alone.

A record is a list of segments in the order of the new file. What they need lies in pools behind
the list: literal bytes, differences, prediction weights, and lots of coded elements.
docs/reference/delta-tensor.md has the bytes.
"""

from dataclasses import dataclass, replace

from edgec_bundle.delta.header import read_varint, write_varint
from edgec_bundle.delta.tensor.blobs import read_blob, write_blob
from edgec_bundle.delta.tensor.lot import MAX_ELEMENTS
from edgec_bundle.delta.tensor.model import DTYPES
from edgec_bundle.delta.tensor.numbers import bytes_for, is_float
from edgec_bundle.errors import PatchFormatError

MAX_MADE_BYTES = 1 << 20  # of one record, copies not counted: 256 Ki elements of 4 bytes
MAX_COPY_BYTES = 8 << 20  # of one record, all copies together
MAX_SEGMENTS = 1 << 12
MAX_LOTS = 64
MAX_KERNEL = 64
MAX_TABLE_BYTES = 1 << 18
MAX_WEIGHTS_BYTES = 1 << 18
MAX_PAYLOAD_BYTES = 4 << 20

_DTYPE_NAMES = {number: name for name, (number, _) in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes of the old file."""

    size: int
    old: int


@dataclass(frozen=True, slots=True)
class Add:
    """Bytes of the old file, each plus the next difference, modulo 256."""

    size: int
    old: int


@dataclass(frozen=True, slots=True)
class Literal:
    """The next literal bytes."""

    size: int


# Where the elements come from that a tensor's are compared with.
NOTHING, OLD_FILE, PRODUCT, QUOTIENT = range(4)
# How the old elements are scaled.
UNSCALED, BY_CHANNEL, BY_SCALES = range(3)


@dataclass(frozen=True, slots=True)
class Delta:
    """Elements, as differences from a prediction.

    Attributes:
        dtype: a key of `DTYPES`.
        count: how many elements.
        lot: which lot codes them.
        mask: which lot says which of them are zero; 0 for none.
        kept: the mask says which are as in the old file instead; of integers only.
        mask_base: where the contexts of the mask start.
        reference: `NOTHING`, `OLD_FILE` (at `old`), or, of float32 only, `PRODUCT` or `QUOTIENT`
            of the vectors at `first` and `second` in the new file, which lie before or were coded
            in an earlier lot.
        known: how many elements of the old file there are; the rest are compared with zero.
        single: the second vector has one element.
        scaling: `UNSCALED`; `BY_CHANNEL`: the next `channels` ratios, one for every `inner`
            elements from `phase` on, round and round; `BY_SCALES`: float32 vectors, old at
            `first` in the old file over new at `second` in the new one.
        kernel, inner_size: the elements are [.., kernel, inner_size], and coded with the last
            two axes swapped; a kernel above 1 has prediction weights.
        exponent: of the fixed values; of floats.
        activity: what the first error is expected to be, as a code.
    """

    dtype: str
    count: int
    lot: int
    reference: int = NOTHING
    old: int = 0
    known: int = 0
    first: int = 0
    second: int = 0
    single: bool = False
    mask: int = 0
    mask_base: int = 0
    kept: bool = False
    scaling: int = UNSCALED
    channels: int = 0
    inner: int = 1
    phase: int = 0
    kernel: int = 1
    inner_size: int = 1
    exponent: int = 0
    activity: int = 0

    @property
    def size(self) -> int:
        """How many bytes of the new file it makes."""
        return bytes_for(self.dtype, self.count)

    @property
    def weights(self) -> int:
        """How many prediction weights it has."""
        return sum(min(place, 8) for place in range(1, self.kernel))


Segment = Copy | Add | Literal | Delta


@dataclass(frozen=True, slots=True)
class Record:
    """A record's contents.

    Attributes:
        segments: in the order of the new file.
        literals, differences: pools for `Literal` and `Add`.
        weights: pool of prediction weights, int8, in 1/64.
        lots: the coded elements; lot 0 holds the ratios of `BY_CHANNEL`, or is empty.
    """

    segments: tuple[Segment, ...]
    literals: bytes
    differences: bytes
    weights: bytes
    lots: tuple[bytes, ...]

    @property
    def made(self) -> int:
        """How many bytes of the new file it makes."""
        return sum(segment.size for segment in self.segments)

    def to_bytes(self, level: int) -> bytes:
        """Return the payload."""
        writer = _Writer()
        for segment in self.segments:
            writer.write(segment)
        pools = (self.literals, self.differences, self.weights)
        return b"".join(
            (
                write_varint(len(self.segments)),
                write_blob(bytes(writer.data), level),
                *(write_blob(pool, level) for pool in pools),
                write_varint(len(self.lots)),
                *(write_varint(len(lot)) + lot for lot in self.lots),
            )
        )

    @classmethod
    def from_bytes(cls, payload: bytes) -> "Record":
        """Parse a payload; all sizes in it agree afterwards. Raises PatchFormatError."""
        count, at = read_varint(payload, 0)
        if not 1 <= count <= MAX_SEGMENTS:
            raise PatchFormatError(f"expected 1 to {MAX_SEGMENTS} segments, got {count}")
        table, at = read_blob(payload, at, MAX_TABLE_BYTES)
        segments = _Reader(table).segments(count)
        pools = []
        for most in (MAX_MADE_BYTES, MAX_MADE_BYTES, MAX_WEIGHTS_BYTES):
            pool, at = read_blob(payload, at, most)
            pools.append(pool)
        lots = []
        lot_count, at = read_varint(payload, at)
        if lot_count > MAX_LOTS:
            raise PatchFormatError(f"expected at most {MAX_LOTS} lots, got {lot_count}")
        for _ in range(lot_count):
            size, at = read_varint(payload, at)
            if size > len(payload) - at:
                raise PatchFormatError("expected more bytes in a record of the patch")
            lots.append(payload[at : at + size])
            at += size
        if at != len(payload):
            raise PatchFormatError("expected no further bytes in a record of the patch")
        record = cls(segments, pools[0], pools[1], pools[2], tuple(lots))
        record._check()
        return record

    def _check(self) -> None:
        def total(kind: type[Segment]) -> int:
            return sum(one.size for one in self.segments if isinstance(one, kind))

        deltas = [one for one in self.segments if isinstance(one, Delta)]
        ratios = sum(one.channels for one in deltas if one.scaling == BY_CHANNEL)
        used = {lot for one in deltas for lot in (0, one.lot, one.mask)}
        claims = (
            (total(Literal), len(self.literals)),
            (total(Add), len(self.differences)),
            (sum(one.weights for one in deltas), len(self.weights)),
            (used, set(range(len(self.lots)))),
            (ratios > 0, bool(self.lots) and self.lots[0] != b""),
        )
        if any(needed != there for needed, there in claims):
            raise PatchFormatError("expected the parts of a record to fit its segments")
        too_much = (
            self.made - total(Copy) > MAX_MADE_BYTES,
            total(Copy) > MAX_COPY_BYTES,
            sum(one.count for one in deltas) > MAX_ELEMENTS,
            ratios > MAX_ELEMENTS,
        )
        if any(too_much):
            raise PatchFormatError("expected a record of less")


class _Writer:
    """Segments as bytes; offsets in the old file relative to where the last one ended."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._old = 0

    def write(self, segment: Segment) -> None:
        match segment:
            case Copy(size, old) | Add(size, old):
                self._numbers(0 if isinstance(segment, Copy) else 1, size, _folded(old - self._old))
                self._old = old + size
            case Literal(size):
                self._numbers(2, size)
            case Delta():
                self._delta(segment)

    def _delta(self, one: Delta) -> None:
        has_mask, has_kernel = one.mask > 0, one.kernel > 1
        flags = one.reference | one.scaling << 2 | has_mask << 4 | has_kernel << 5
        flags |= (one.single or one.kept) << 6
        flags |= (one.reference == OLD_FILE and one.known != one.count) << 7
        self._numbers(3 | DTYPES[one.dtype][0] << 2, flags, one.count, one.lot, one.activity)
        if is_float(one.dtype):
            self._numbers(_folded(one.exponent))
        if one.reference == OLD_FILE:
            if one.known != one.count:
                self._numbers(one.known)
            self._numbers(_folded(one.old - self._old))
            self._old = one.old + bytes_for(one.dtype, one.known)
        if one.reference in (PRODUCT, QUOTIENT) or one.scaling == BY_SCALES:
            self._numbers(one.first, one.second)
        if one.scaling == BY_CHANNEL:
            self._numbers(one.channels, one.inner, one.phase)
        if has_mask:
            self._numbers(one.mask, one.mask_base)
        if has_kernel:
            self._numbers(one.kernel, one.inner_size)

    def _numbers(self, *values: int) -> None:
        for value in values:
            self.data += write_varint(int(value))


class _Reader:
    """The inverse of `_Writer`, for bytes of a stranger."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._old = 0

    def segments(self, count: int) -> tuple[Segment, ...]:
        """Return all segments. Raises PatchFormatError."""
        found = tuple(self._segment() for _ in range(count))
        if self._at != len(self._data):
            raise PatchFormatError("expected no further bytes behind the segments")
        return found

    def _segment(self) -> Segment:
        head = self._number()
        kind = head & 3
        if kind == 3:
            return self._delta(head >> 2)
        size = self._number()
        if head > 2 or not 1 <= size <= MAX_COPY_BYTES:
            raise PatchFormatError("expected a known kind of segment that makes something")
        if kind == 2:
            return Literal(size)
        old = self._offset(size)
        return Copy(size, old) if kind == 0 else Add(size, old)

    def _delta(self, dtype_number: int) -> Delta:
        if dtype_number not in _DTYPE_NAMES:
            raise PatchFormatError("expected a known type of elements")
        dtype = _DTYPE_NAMES[dtype_number]
        flags, count, lot, activity = (self._number() for _ in range(4))
        one = Delta(dtype, count, lot, flags & 3, activity=activity, scaling=flags >> 2 & 3)
        if is_float(dtype):
            one = replace(one, exponent=_unfolded(self._number()))
        if one.reference == OLD_FILE:
            known = self._number() if flags & 128 else count
            one = replace(one, known=known, old=self._offset(bytes_for(dtype, known)))
        if one.reference in (PRODUCT, QUOTIENT) or one.scaling == BY_SCALES:
            one = replace(one, first=self._number(), second=self._number())
        if one.scaling == BY_CHANNEL:
            channels, inner, phase = (self._number() for _ in range(3))
            one = replace(one, channels=channels, inner=inner, phase=phase)
        if flags & 16:
            one = replace(one, mask=self._number(), mask_base=self._number())
        if flags & 32:
            one = replace(one, kernel=self._number(), inner_size=self._number())
        has_bit, derived = bool(flags & 64), one.reference in (PRODUCT, QUOTIENT)
        one = replace(one, single=has_bit and derived, kept=has_bit and not derived)
        _check_delta(one, flags)
        return one

    def _offset(self, size: int) -> int:
        old = self._old + _unfolded(self._number())
        if not 0 <= old < 1 << 62:
            raise PatchFormatError("expected a place inside of the old file")
        self._old = old + size
        return old

    def _number(self) -> int:
        value, self._at = read_varint(self._data, self._at)
        return value


def _check_delta(one: Delta, flags: int) -> None:
    bits = DTYPES[one.dtype][1]
    derived = one.reference in (PRODUCT, QUOTIENT)
    sound = (
        1 <= one.count <= MAX_ELEMENTS and one.count * bits % 8 == 0 and flags < 256,
        one.known <= one.count and one.known * bits % 8 == 0,
        1 <= one.lot < MAX_LOTS and one.mask < MAX_LOTS and bool(one.mask) == bool(flags & 16),
        not derived or (one.dtype == "float32" and one.scaling == UNSCALED),
        not one.kept or (one.mask > 0 and one.reference == OLD_FILE and not is_float(one.dtype)),
        one.reference == OLD_FILE or not flags & 128,
        one.mask < one.lot,
        one.scaling <= BY_SCALES and one.activity < 96 and -128 <= one.exponent <= 127,
        one.scaling != BY_SCALES or (one.dtype == "int32" and one.reference == OLD_FILE),
        one.scaling != BY_CHANNEL or 1 <= one.channels <= MAX_ELEMENTS,
        one.scaling == BY_CHANNEL or one.channels == 0,
        1 <= one.inner < 1 << 31 and one.phase < 1 << 31 and one.mask_base < 1 << 31,
        1 <= one.kernel <= MAX_KERNEL and bool(flags & 32) == (one.kernel > 1),
        one.kernel == 1 or not one.mask,
        1 <= one.inner_size <= MAX_ELEMENTS
        and one.count % max(1, one.kernel * one.inner_size) == 0,
    )
    if not all(sound):
        raise PatchFormatError("expected a sound description of elements")


def _folded(value: int) -> int:
    return value << 1 if value >= 0 else -value * 2 - 1


def _unfolded(value: int) -> int:
    return -(value + 1 >> 1) if value & 1 else value >> 1
