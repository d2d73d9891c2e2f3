"""Two ways to write a lot's elements: byte planes for slow devices, rANS where bytes matter.

A coded lot is one byte that names the coder, and what that coder wrote.
"""

from collections.abc import Sequence

import numpy as np

from edgec_bundle.delta.header import read_varint, write_varint
from edgec_bundle.delta.tensor import engine, lanes, numbers
from edgec_bundle.delta.tensor.blobs import read_blob, write_blob
from edgec_bundle.delta.tensor.lanes import Coded
from edgec_bundle.delta.tensor.lot import MASK, Lot
from edgec_bundle.delta.tensor.numbers import Ints
from edgec_bundle.errors import PatchFormatError

PLANES, RANS = range(2)


def encode_planes(lot: Lot, codes: Ints, level: int) -> bytes:
    """Return `codes` as errors split into byte planes, each compressed."""
    if lot.dtype == MASK:
        return bytes([PLANES]) + write_blob(codes.astype(np.uint8).tobytes(), level)
    bits = numbers.bits_of(lot.dtype)
    errors = numbers.wrapped(codes - _predicted(lot), bits)
    folded = np.where(errors < 0, ~(errors << 1), errors << 1)
    planes = [folded >> shift & 255 for shift in range(0, bits, 8)]
    blobs = [write_blob(plane.astype(np.uint8).tobytes(), level) for plane in planes]
    return bytes([PLANES]) + b"".join(blobs)


def encode_rans(lots: Sequence[Lot], codes: Sequence[Ints], lane_count: int) -> list[bytes]:
    """Return `codes` of each lot as the lanes wrote them. All must have dtype and count alike."""
    coded = engine.encode_lots(lots, codes, lane_count)
    return [
        bytes([RANS])
        + write_varint(one.lanes)
        + write_varint(len(one.words))
        + one.states
        + one.words
        + one.bits
        for one in coded
    ]


def coder_of(data: bytes) -> int:
    """Return which coder wrote a lot. Raises PatchFormatError."""
    if not data or data[0] not in (PLANES, RANS):
        raise PatchFormatError("expected a lot of a known coder")
    return data[0]


def decode_planes(lot: Lot, data: bytes) -> Ints:
    """Return the codes of a lot's elements. Raises PatchFormatError."""
    if lot.dtype == MASK:
        plane, at = read_blob(data, 1, lot.count)
        _check_end(len(plane) == lot.count and at == len(data))
        return np.frombuffer(plane, np.uint8).astype(np.int64)
    bits = numbers.bits_of(lot.dtype)
    # As narrow as the elements: wide temporaries cost more in fresh pages than in arithmetic.
    word = np.dtype(f"u{max(1, bits // 8)}")
    folded = np.zeros(lot.count, word)
    at = 1
    for shift in range(0, bits, 8):
        plane, at = read_blob(data, at, lot.count)
        _check_end(len(plane) == lot.count)
        folded |= np.frombuffer(plane, np.uint8).astype(word) << word.type(shift)
    _check_end(at == len(data))
    codes = _predicted(lot).astype(word)
    codes += folded >> word.type(1) ^ np.negative(folded & word.type(1))
    signed = codes.view(f"i{word.itemsize}").astype(np.int64)
    return numbers.wrapped(signed, bits) if bits < 8 else signed


def parse_rans(lot: Lot, data: bytes) -> Coded:
    """Return the parts of what the lanes wrote. Raises PatchFormatError."""
    lane_count, at = read_varint(data, 1)
    if not 1 <= lane_count <= min(lanes.MAX_LANES, lot.count):
        raise PatchFormatError(f"expected 1 to {lanes.MAX_LANES} lanes, got {lane_count}")
    word_bytes, at = read_varint(data, at)
    if lot.count > lane_count * lanes.MAX_STEPS:
        raise PatchFormatError(f"expected lanes of at most {lanes.MAX_STEPS} elements")
    words_at = at + lanes.STATE_BYTES * lane_count
    bits_at = words_at + word_bytes
    if word_bytes % 2 or bits_at > len(data):
        raise PatchFormatError("expected more bytes in a lot of the patch")
    return Coded(lane_count, data[at:words_at], data[words_at:bits_at], data[bits_at:])


def _predicted(lot: Lot) -> Ints:
    """Return the codes that need no correction from earlier errors."""
    if not numbers.is_float(lot.dtype):
        nearest = lot.base + (1 << (numbers.FRACTION_BITS - 1))
        nearest >>= numbers.FRACTION_BITS
        return nearest
    is_exact = lot.base == lot.reference_fixed
    if is_exact.all():
        return lot.reference
    segments = np.searchsorted(lot.starts, np.arange(lot.count), "right") - 1
    rounded = numbers.rounded(lot.base, lot.dtype, lot.exponents[segments])
    return np.where(is_exact, lot.reference, rounded)


def _check_end(is_right: bool) -> None:
    if not is_right:
        raise PatchFormatError("expected the planes of a lot to have its size")
