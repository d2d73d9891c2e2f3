"""A patch is a stranger's: refused or harmless, in bounded memory and time, whatever it says."""

import random
import tracemalloc
import zlib
from dataclasses import replace

import pytest
import zstandard
from delta_models import GOLDENS, Sink
from golden_pairs import pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from edgec_bundle.delta import PatchHeader, apply_patch, make_patch_as, read_header
from edgec_bundle.delta.header import write_varint
from edgec_bundle.delta.tensor import PLANES_ONLY, TENSOR, engine, lot, record
from edgec_bundle.delta.tensor.applying import VERSION
from edgec_bundle.delta.tensor.blobs import read_blob, write_blob
from edgec_bundle.delta.tensor.record import Add, Copy, Delta, Literal, Record
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import DeltaError, PatchFormatError, PatchLimitError
from edgec_bundle.store import BytesReader

NAMES = sorted(pairs())
HUGE = 1 << 61


def attempt(patch: bytes, old: bytes, new: bytes) -> bytes | None:
    """Return what a patch makes, or None if it is refused."""
    sink = Sink()
    try:
        apply_patch(
            BytesReader(patch),
            BytesReader(old),
            sink,
            new_sha256=sha256_hex(new),
            new_bytes=len(new),
        )
    except DeltaError:
        assert len(sink.data) <= len(new)
        return None
    return bytes(sink.data)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["tensor", "tensor-planes", "zstd"])
def test_every_flipped_byte_is_refused_or_makes_no_difference(name: str, form: str) -> None:
    old, new = pairs()[name]
    patch = make_patch_as(form, old, new).data
    refused = tried = 0

    step = 1 if engine.is_compiled() or form != "tensor" else 1 + len(patch) // 50
    for at in range(0, len(patch), step):
        tried += 1
        flip = 1 << tried % 8
        damaged = patch[:at] + bytes([patch[at] ^ flip]) + patch[at + 1 :]
        made = attempt(damaged, old, new)
        assert made in (None, new)
        refused += made is None

    assert refused > 0.9 * tried


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["tensor", "tensor-planes", "zstd"])
def test_every_truncated_or_longer_patch_is_refused(name: str, form: str) -> None:
    old, new = pairs()[name]
    patch = make_patch_as(form, old, new).data

    for end in range(0, len(patch), 1 + len(patch) // 300):
        assert attempt(patch[:end], old, new) is None
    for more in (b"\0", patch):
        assert attempt(patch + more, old, new) is None


OLD, NEW = pairs()["floats-onnx"]
MUTABLE = {form: make_patch_as(form, OLD, NEW).data for form in ("tensor", "tensor-planes")}
START = len(read_header(MUTABLE["tensor"]).to_bytes())


@settings(max_examples=60)
@given(st.integers(), st.sampled_from(["tensor", "tensor-planes"]))
def test_random_damage_is_refused_in_little_memory(seed: int, form: str) -> None:
    chance = random.Random(seed)
    patch = bytearray(MUTABLE[form])
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(START, len(patch))
        match chance.randrange(4):
            case 0:
                patch[at] = chance.randrange(256)
            case 1:
                patch[at : at + chance.randrange(9)] = b""
            case 2:
                patch[at:at] = chance.randbytes(chance.randrange(1, 9))
            case _:
                patch[at : at + 3] = write_varint(chance.getrandbits(chance.randrange(1, 40)))

    tracemalloc.start()
    made = attempt(bytes(patch), OLD, NEW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert made in (None, NEW)
    assert peak < 32 << 20


def patch_with(*records: Record | bytes, kept: bytes = b"\0", made: int | None = None) -> bytes:
    """Return a tensor patch from OLD to NEW with records of our own making."""
    body = bytes([VERSION]) + kept
    for one in records:
        payload = one if isinstance(one, bytes) else one.to_bytes(3)
        size = made if made is not None else one.made if isinstance(one, Record) else len(NEW)
        body += write_varint(size) + write_varint(len(payload)) + bytes(4) + payload
    return (
        PatchHeader("tensor", sha256_hex(OLD), len(OLD), sha256_hex(NEW), len(NEW)).to_bytes()
        + body
    )


def of(*segments: record.Segment, **parts: object) -> Record:
    fields = {"literals": b"", "differences": b"", "weights": b"", "lots": ()} | parts
    return Record(segments, **fields)  # type: ignore[arg-type]


def planes(count: int) -> bytes:
    return b"\0" + write_blob(bytes(count))


SOUND = Delta("int8", 100, 1, record.OLD_FILE, old=0, known=100)
RANS_LOT = b"\1" + write_varint(1) + write_varint(2) + bytes(5 + 2)
WHOLE = of(Copy(len(NEW), 0))

HOSTILE = {
    "no records": patch_with(),
    "an unknown version": patch_with()[:START] + b"\7\0",
    "a record that makes nothing": patch_with(of(Literal(1), literals=b"x"), made=0),
    "a record that claims more": patch_with(of(Literal(1), literals=b"x"), made=2),
    "a record of more than the file": patch_with(of(Copy(len(NEW) + 1, 0))),
    "a huge payload": patch_with()[:START] + b"\1\0" + write_varint(9) + write_varint(HUGE),
    "no segments": patch_with(b"\0" * 6),
    "a copy outside": patch_with(of(Copy(100, len(OLD) - 50))),
    "a copy far outside": patch_with(of(Copy(100, 1 << 60))),
    "an addition outside": patch_with(of(Add(9, len(OLD) - 5), differences=b"012345678")),
    "fewer literals": patch_with(of(Literal(9), literals=b"1234")),
    "more literals": patch_with(of(Literal(9), literals=b"0123456789")),
    "a delta without a lot": patch_with(of(SOUND)),
    "a lot too many": patch_with(of(SOUND, lots=(b"", planes(100), planes(100)))),
    "a lot of another size": patch_with(of(SOUND, lots=(b"", planes(99)))),
    "a lot of an unknown coder": patch_with(of(SOUND, lots=(b"", b"\7"))),
    "an empty lot": patch_with(of(SOUND, lots=(b"", b""))),
    "lanes that end wrongly": patch_with(of(SOUND, lots=(b"", RANS_LOT))),
    "no lanes": patch_with(of(SOUND, lots=(b"", b"\1\0\0"))),
    "too many lanes": patch_with(of(SOUND, lots=(b"", b"\1" + write_varint(257) + bytes(9999)))),
    "ratios that nobody has": patch_with(of(SOUND, lots=(planes(1), planes(100)))),
    "an old tensor outside": patch_with(
        of(replace(SOUND, old=len(OLD) - 10), lots=(b"", planes(100)))
    ),
    "a product of what isn't there": patch_with(
        of(
            Delta("float32", 4, 1, record.PRODUCT, first=0, second=0, single=True),
            lots=(b"", b"\0" + write_blob(bytes(4)) * 4),
        )
    ),
    "a product of itself": patch_with(
        of(
            Literal(16),
            Delta("float32", 4, 1, record.PRODUCT, first=16, second=0, single=True),
            literals=bytes(16),
            lots=(b"", b"\0" + write_blob(bytes(4)) * 4),
        )
    ),
    "scales from outside": patch_with(
        of(
            Delta("int32", 4, 1, record.OLD_FILE, known=4, scaling=2, first=1 << 40, second=0),
            lots=(b"", b"\0" + write_blob(bytes(4)) * 4),
        )
    ),
    "elements beyond the limit": patch_with(
        of(replace(SOUND, count=lot.MAX_ELEMENTS + 1, known=100), lots=(b"", planes(100)))
    ),
    "many elements together": patch_with(
        of(*[replace(SOUND, count=lot.MAX_ELEMENTS, known=100)] * 9, lots=(b"", planes(100)))
    ),
    "channels beyond the limit": patch_with(
        of(replace(SOUND, scaling=1, channels=HUGE, inner=1), lots=(planes(9), planes(100)))
    ),
    "a kernel that doesn't fit": patch_with(
        of(replace(SOUND, kernel=7, inner_size=1), weights=bytes(21), lots=(b"", planes(100)))
    ),
    "a mask of its own lot": patch_with(of(replace(SOUND, mask=1), lots=(b"", planes(100)))),
    "many kept ranges": patch_with(WHOLE, kept=write_varint(1 << 30)),
    "kept ranges of too much": patch_with(WHOLE, kept=b"\1\0" + write_varint(HUGE)),
    "a bomb of literals": patch_with(
        b"\1" + write_blob(b"\2\1") + b"\3" + write_varint(20_000)
        + zstandard.compress(bytes(1 << 29))[4:]
    ),
}  # fmt: skip


@pytest.mark.parametrize("patch", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_patch_is_refused_in_little_memory(patch: bytes) -> None:
    tracemalloc.start()
    made = attempt(patch, OLD, NEW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert made is None
    assert peak < 32 << 20


def test_planes_refuse_lanes() -> None:
    body = (GOLDENS / "int8-tflite.tensor").read_bytes()
    old, new = pairs()["int8-tflite"]

    with pytest.raises(PatchFormatError, match="coder"):
        PLANES_ONLY.apply(BytesReader(body), BytesReader(old), Sink(), len(new))
    TENSOR.apply(BytesReader(body), BytesReader(old), Sink(), len(new))


def test_a_record_that_makes_other_bytes_is_refused_before_the_next() -> None:
    record_ = of(Literal(4), literals=b"good")
    payload = record_.to_bytes(3)
    head = write_varint(4) + write_varint(len(payload))
    body = bytes([VERSION, 0])
    body += head + zlib.crc32(b"good").to_bytes(4, "little") + payload
    body += head + zlib.crc32(b"evil").to_bytes(4, "little") + payload
    sink = Sink()

    with pytest.raises(PatchFormatError, match="checksum"):
        TENSOR.apply(BytesReader(body), BytesReader(b""), sink, 8)

    assert sink.data[:4] == b"good"


def test_a_blob_says_its_size_and_no_more_comes_out() -> None:
    bomb = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            3, write_content_size=0, format=zstandard.FORMAT_ZSTD1_MAGICLESS
        )
    ).compress(bytes(100 << 20))
    claims = write_varint(10 << 1 | 1) + write_varint(len(bomb)) + bomb

    tracemalloc.start()
    with pytest.raises(PatchFormatError):
        read_blob(claims, 0, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1 << 20
    with pytest.raises(PatchFormatError, match="at most"):
        read_blob(write_varint(200 << 1) + bytes(200), 0, 100)


@given(st.binary(max_size=5000))
def test_blobs_round_trip(data: bytes) -> None:
    written = write_blob(data)

    assert read_blob(b"x" + written + b"y", 1, 5000) == (data, 1 + len(written))
    assert len(written) <= len(data) + 2


def test_a_zstd_bomb_is_refused_in_little_memory() -> None:
    header = PatchHeader("zstd", sha256_hex(OLD), len(OLD), sha256_hex(NEW), len(NEW))
    bomb = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            3, write_content_size=0, format=zstandard.FORMAT_ZSTD1_MAGICLESS
        )
    ).compress(bytes(500 << 20))

    tracemalloc.start()
    with pytest.raises(PatchLimitError):
        apply_patch(
            BytesReader(header.to_bytes() + bomb),
            BytesReader(OLD),
            Sink(),
            new_sha256=sha256_hex(NEW),
            new_bytes=len(NEW),
        )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8 << 20


def test_many_segments_in_one_record_are_bounded() -> None:
    segments = [Copy(1, 0)] * (record.MAX_SEGMENTS + 1)

    assert attempt(patch_with(of(*segments)), OLD, NEW) is None
