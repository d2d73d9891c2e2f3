"""Any two files make a patch that works; no patch makes anything but the file it should."""

import bz2
import random
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import bsdiff4
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_bundle.archive import Bundle, open_bundle, pack_bundle, write_bundle
from edgec_bundle.delta import (
    FORMATS,
    PatchHeader,
    apply_patch,
    diff_paths,
    make_patch,
    make_patch_as,
    patch_path,
    read_header,
)
from edgec_bundle.delta.header import CODES, MAX_VARINT, read_varint, write_varint
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import (
    ArchiveError,
    BaseMismatchError,
    BundleError,
    DeltaError,
    PatchFormatError,
    PatchLimitError,
    PatchPathError,
)
from edgec_bundle.manifest import Golden, Manifest, Runtime, TensorSpec
from edgec_bundle.store import BytesReader, FileReader, FolderBlobStore

CHANCE = random.Random(7)
OLD = CHANCE.randbytes(20_000)
NEW = (
    OLD[:5_000]
    + b"something new"
    + bytes(b ^ (at % 10 == 0) for at, b in enumerate(OLD[5_000:6_000]))
    + OLD[9_000:]
)


class Sink:
    """An appender that remembers."""

    def __init__(self) -> None:
        self.data = bytearray()

    def append(self, data: bytes) -> None:
        self.data += data


class Counter:
    """An appender that only counts."""

    def __init__(self) -> None:
        self.bytes = 0

    def append(self, data: bytes) -> None:
        self.bytes += len(data)


def applied(patch: bytes, old: bytes, new: bytes) -> bytes:
    sink = Sink()
    apply_patch(
        BytesReader(patch),
        BytesReader(old),
        sink,
        new_sha256=sha256_hex(new),
        new_bytes=len(new),
    )
    return bytes(sink.data)


def patch_with(control: list[tuple[int, int, int]], diff: bytes, extra: bytes) -> bytes:
    """Return a patch from OLD to NEW with streams of our own making."""
    words = b"".join(
        (value if value >= 0 else -value | 1 << 63).to_bytes(8, "little")
        for step in control
        for value in step
    )
    return patch_of(bz2.compress(words), bz2.compress(diff), bz2.compress(extra))


def patch_of(control: bytes, diff: bytes, extra: bytes, **header: object) -> bytes:
    start = PatchHeader("bsdiff4", sha256_hex(OLD), len(OLD), sha256_hex(NEW), len(NEW))
    lengths = write_varint(len(control)) + write_varint(len(diff))
    return replace(start, **header).to_bytes() + lengths + control + diff + extra


def mutated(data: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    pieces = [data]
    for _ in range(chance.randrange(6)):
        at, to = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
        pieces.append(
            chance.choice([data[at:to], bytes(to - at), bytes(b ^ 3 for b in data[at:to])])
        )
    chance.shuffle(pieces)
    return b"".join(pieces)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_two_byte_strings_make_a_patch(old: bytes, new: bytes) -> None:
    patch = make_patch_as("bsdiff4", old, new)

    assert applied(patch.data, old, new) == new


@given(st.binary(max_size=2_000), st.integers(), st.integers())
def test_any_two_related_files_make_a_patch(data: bytes, first: int, second: int) -> None:
    old, new = mutated(data, first), mutated(data, second)

    assert applied(make_patch_as("bsdiff4", old, new).data, old, new) == new


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 131_072, 400_000])
def test_pieces_of_any_size_fit_together(size: int) -> None:
    old = random.Random(size).randbytes(size)
    new = old[:-1] + b"end"

    patch = make_patch_as("bsdiff4", old, new)

    assert applied(patch.data, old, new) == new
    assert len(patch.data) < 400


def test_a_patch_is_made_only_when_it_is_clearly_smaller() -> None:
    patch = make_patch(OLD, NEW)

    assert patch is not None
    assert patch.format in FORMATS
    assert len(patch.data) < 500
    assert make_patch(OLD, CHANCE.randbytes(20_000)) is None
    assert make_patch(OLD, b"") is None
    assert make_patch(b"cat\ndog\n", b"cat\ndog\nelk\n") is None


def test_formats_that_are_not_known_are_passed_over() -> None:
    assert make_patch(OLD, NEW, formats=("wavelet", "bsdiff4")) is not None
    assert make_patch(OLD, NEW, formats=("wavelet",)) is None
    assert make_patch(OLD, NEW, formats=()) is None
    with pytest.raises(PatchFormatError, match="bsdiff4"):
        make_patch_as("wavelet", OLD, NEW)


def test_files_too_large_for_the_memory_allowed_are_not_compared() -> None:
    whole = ("bsdiff4", "zstd")
    assert make_patch(OLD, NEW, whole, max_bytes=len(OLD) + len(NEW)) is not None
    assert make_patch(OLD, NEW, whole, max_bytes=len(OLD) + len(NEW) - 1) is None
    with pytest.raises(PatchLimitError):
        make_patch_as("bsdiff4", OLD, NEW, max_bytes=1000)


@pytest.mark.parametrize(
    "pattern", [b"\0", b"\0\0\0\x80", b"0123456789abcdef", b"rgb", bytes(999) + b"x"]
)
def test_files_that_would_take_bsdiff_minutes_are_not_compared(pattern: bytes) -> None:
    old = OLD + pattern * (2_000_000 // len(pattern))
    new = NEW + pattern * (2_000_000 // len(pattern)) + b"!"

    assert make_patch(old, new, formats=("bsdiff4",)) is None


def test_a_patch_is_never_much_larger_than_bsdiffs_own() -> None:
    for seed in range(20):
        old = mutated(OLD, seed)
        new = mutated(OLD, seed + 100)
        assert len(make_patch_as("bsdiff4", old, new).data) <= len(bsdiff4.diff(old, new)) + 64


def test_the_header_says_from_where_to_where() -> None:
    header = read_header(make_patch_as("bsdiff4", OLD, NEW).data)

    assert header == PatchHeader("bsdiff4", sha256_hex(OLD), len(OLD), sha256_hex(NEW), len(NEW))
    assert header.to_bytes()[:8] == b"EDGD\x01" + b"\xa0\x9c\x01"


digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
sizes = st.integers(0, MAX_VARINT)


@given(st.builds(PatchHeader, st.sampled_from(sorted(CODES)), digests, sizes, digests, sizes))
def test_reading_a_header_is_the_inverse_of_writing_it(header: PatchHeader) -> None:
    payload = header.to_bytes()

    assert read_header(payload + b"body") == header
    for end in range(len(payload)):
        with pytest.raises(PatchFormatError):
            read_header(payload[:end])


@given(sizes, st.binary(max_size=5))
def test_reading_a_varint_is_the_inverse_of_writing_it(value: int, rest: bytes) -> None:
    encoded = write_varint(value)

    assert read_varint(b"x" + encoded + rest, 1) == (value, 1 + len(encoded))


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x00", b"\xff\x00", b"\xff" * 9, b"\xff" * 1000]
)
def test_a_varint_has_one_spelling_and_an_end(data: bytes) -> None:
    with pytest.raises(PatchFormatError):
        read_varint(data, 0)


def test_every_flipped_byte_is_refused_or_makes_no_difference() -> None:
    patch = make_patch_as("bsdiff4", OLD, NEW).data
    refused = 0

    for at in range(len(patch)):
        for flip in (0x01, 0x80, 0xFF):
            other = patch[:at] + bytes([patch[at] ^ flip]) + patch[at + 1 :]
            try:
                assert applied(other, OLD, NEW) == NEW
            except DeltaError:
                refused += 1

    assert refused > 2.9 * len(patch)


def test_every_truncated_or_longer_patch_is_refused() -> None:
    patch = make_patch_as("bsdiff4", OLD, NEW).data

    for other in (*(patch[:end] for end in range(len(patch))), patch + b"\0", patch + patch):
        with pytest.raises(DeltaError):
            applied(other, OLD, NEW)


@given(st.binary(max_size=100))
def test_arbitrary_bodies_are_refused(body: bytes) -> None:
    start = PatchHeader("bsdiff4", sha256_hex(OLD), len(OLD), sha256_hex(NEW), len(NEW))

    with pytest.raises(DeltaError):
        applied(start.to_bytes() + body, OLD, NEW)


def test_a_patch_from_another_file_is_refused() -> None:
    patch = make_patch_as("bsdiff4", OLD, NEW).data

    with pytest.raises(BaseMismatchError) as caught:
        applied(patch, OLD[:-1] + b"?", NEW)

    assert caught.value.expected == sha256_hex(OLD)
    with pytest.raises(BaseMismatchError):
        applied(patch, b"", NEW)


def test_a_patch_to_another_file_is_refused_before_it_writes() -> None:
    patch = make_patch_as("bsdiff4", OLD, NEW).data
    sink = Sink()

    for wanted, size, error in (
        (sha256_hex(OLD), len(NEW), PatchFormatError),
        (sha256_hex(NEW), len(NEW) + 1, PatchFormatError),
        (sha256_hex(NEW), len(NEW) - 1, PatchLimitError),
    ):
        with pytest.raises(error):
            apply_patch(
                BytesReader(patch), BytesReader(OLD), sink, new_sha256=wanted, new_bytes=size
            )
    assert not sink.data


HUGE = (1 << 63) - 1
HOSTILE = {
    "no steps": patch_with([], b"", b""),
    "other bytes": patch_with([(0, len(NEW), 0)], b"", bytes(len(NEW))),
    "too many bytes": patch_with([(0, len(NEW) + 1, 0)], b"", NEW + b"!"),
    "too few bytes": patch_with([(0, len(NEW) - 1, 0)], b"", NEW[:-1]),
    "a step after the end": patch_with([(0, len(NEW), 0), (0, 1, 0)], b"", NEW + b"!"),
    "an empty step after the end": patch_with([(0, len(NEW), 0), (0, 0, 0)], b"", NEW),
    "a huge copy": patch_with([(HUGE, 0, 0)], b"", b""),
    "a huge addition": patch_with([(0, HUGE, 0)], b"", b""),
    "a negative copy": patch_with([(-1, len(NEW), 0)], b"", NEW),
    "a negative addition": patch_with([(5, -5, 0), (0, len(NEW), 0)], b"", NEW),
    "a copy beyond the old file": patch_with([(len(OLD) + 1, 0, 0)], bytes(len(OLD) + 1), b""),
    "a copy before the old file": patch_with(
        [(1, 0, -100), (len(NEW) - 1, 0, 0)], bytes(len(NEW)), b""
    ),
    "a seek to nowhere": patch_with([(0, 1, HUGE), (1, 0, HUGE), (1, 0, 0)], b"ab", NEW),
    "no progress": patch_with([(0, 0, 1)] * 10_000 + [(0, len(NEW), 0)], b"", NEW),
    "diff left over": patch_with([(0, len(NEW), 0)], b"left", NEW),
    "extra left over": patch_with([(0, len(NEW), 0)], b"", NEW + b"left"),
    "half a step": patch_of(bz2.compress(b"\0" * 23), b"", b""),
    "not bz2": patch_of(b"BZh9garbage", b"", b""),
    "bz2 with a tail": patch_of(
        bz2.compress((0).to_bytes(8, "little") + len(NEW).to_bytes(16, "little")) + b"tail",
        b"",
        bz2.compress(NEW),
    ),
    "lengths beyond the patch": patch_of(b"", b"", b"")[:-2] + write_varint(HUGE) * 2,
    "a bomb as control": patch_of(bz2.compress(bytes(20_000_000)), b"", b""),
    "a bomb as diff": patch_of(
        bz2.compress(len(NEW).to_bytes(24, "little")), bz2.compress(bytes(20_000_000)), b""
    ),
    "a bomb as extra": patch_of(
        bz2.compress((0).to_bytes(8, "little") + len(NEW).to_bytes(16, "little")),
        b"",
        bz2.compress(bytes(20_000_000)),
    ),
    "the format of bundles": patch_of(b"", b"", b"", format="bundle"),
    "a format of the future": patch_of(b"", b"", b"", format="tensor"),
    "an unknown format": b"EDGD\x7f" + patch_of(b"", b"", b"")[5:],
    "another old size": patch_of(b"", b"", b"", old_bytes=len(OLD) - 1),
    "bsdiff's own file": bsdiff4.diff(OLD, NEW),
    "nothing": b"",
}


@pytest.mark.parametrize("patch", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_patch_is_refused_in_little_memory(patch: bytes) -> None:
    counter = Counter()
    old, new_sha256 = BytesReader(OLD), sha256_hex(NEW)

    tracemalloc.start()
    with pytest.raises(DeltaError):
        apply_patch(BytesReader(patch), old, counter, new_sha256=new_sha256, new_bytes=len(NEW))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert counter.bytes <= len(NEW)
    assert peak < 2 << 20


def test_a_large_file_is_patched_in_little_memory(tmp_path: Path) -> None:
    chance = random.Random(3)
    (tmp_path / "old").write_bytes(old := chance.randbytes(8_000_000))
    new = bytearray(old)
    for at in range(0, len(new), 1000):
        new[at] ^= 1
    patch = make_patch_as("bsdiff4", old, bytes(new), max_bytes=16_000_000)
    store = FolderBlobStore(tmp_path / "blobs")
    partial = store.begin(sha256_hex(new), len(new))

    with FileReader(tmp_path / "old") as reader:
        tracemalloc.start()
        apply_patch(
            BytesReader(patch.data), reader, partial, new_sha256=partial.digest, new_bytes=len(new)
        )
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    partial.commit()

    assert store.read(sha256_hex(new)) == new
    assert peak < 4 << 20


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("form", ["auto", *FORMATS])
def test_plain_files_are_diffed_and_patched(tmp_path: Path, form: str) -> None:
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)

    diff = diff_paths(old, new, tmp_path / "patch", form)
    digest = patch_path(old, tmp_path / "patch", tmp_path / "made")

    assert (tmp_path / "made").read_bytes() == NEW
    assert digest == sha256_hex(NEW)
    assert diff.format == form or (form == "auto" and diff.format in FORMATS)
    assert (diff.old_bytes, diff.new_bytes) == (len(OLD), len(NEW))
    assert diff.patch_bytes == (tmp_path / "patch").stat().st_size < 500


def test_auto_always_makes_a_patch_even_of_files_too_large_to_compare(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)

    with pytest.raises(PatchLimitError):
        diff_paths(old, new, tmp_path / "patch", "bsdiff4", max_bytes=1000)
    assert not (tmp_path / "patch").exists()

    diff_paths(old, new, tmp_path / "patch", max_bytes=1000)
    patch_path(old, tmp_path / "patch", tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == NEW


def test_a_failed_patch_leaves_what_was_there(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    diff_paths(old, new, tmp_path / "patch")
    broken = bytearray((tmp_path / "patch").read_bytes())
    broken[-20] ^= 1
    write(tmp_path / "patch", broken)
    made = write(tmp_path / "made", b"precious")

    with pytest.raises(DeltaError):
        patch_path(old, tmp_path / "patch", made)

    assert made.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "new", "old", "patch"]


def test_a_patch_that_claims_too_much_is_refused(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    diff_paths(old, new, tmp_path / "patch")

    with pytest.raises(PatchLimitError):
        patch_path(old, tmp_path / "patch", tmp_path / "made", max_bytes=len(NEW) - 1)


def test_paths_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    old = write(tmp_path / "old", OLD)
    (tmp_path / "folder").mkdir()

    for first, second, out in (
        (tmp_path / "none", old, tmp_path / "patch"),
        (old, tmp_path / "none", tmp_path / "patch"),
        (old, tmp_path / "folder", tmp_path / "patch"),
        (tmp_path / "folder", tmp_path / "folder", tmp_path / "patch"),
        (old, old, tmp_path / "none" / "patch"),
        (old, old, tmp_path / "folder"),
    ):
        with pytest.raises((DeltaError, ArchiveError)):
            diff_paths(first, second, out)
    with pytest.raises(PatchFormatError):
        patch_path(old, old, tmp_path / "made")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "old"]


def a_bundle(folder: Path, version: str, model: bytes, **files: bytes) -> Bundle:
    manifest = Manifest(
        model="digits",
        version=version,
        release=int(version[0]),
        profile="rpi4",
        format="tflite",
        runtime=Runtime("litert"),
        inputs=(TensorSpec("image", "uint8", (-1, 32, 32, 1)),),
        outputs=(TensorSpec("probabilities", "float32", (-1, 10)),),
        golden=Golden(8, 0.02, "max_abs") if "golden" in files else None,
    )
    contents = {"model": ("model.tflite", model)}
    contents |= {role: (f"{role}.bin", data) for role, data in files.items()}
    return write_bundle(folder, manifest, contents)


@pytest.fixture
def old_bundle(tmp_path: Path) -> Bundle:
    return a_bundle(tmp_path / "1.0.0", "1.0.0", OLD, labels=b"0\n1\n", report=b"{}")


@pytest.fixture
def new_bundle(tmp_path: Path) -> Bundle:
    files = {"labels": b"0\n1\n", "golden": b"gold", "report": b'{"accuracy":0.99}'}
    return a_bundle(tmp_path / "2.0.0", "2.0.0", NEW, **files)


def test_bundles_are_diffed_and_patched_as_folder_and_as_file(
    tmp_path: Path, old_bundle: Bundle, new_bundle: Bundle
) -> None:
    packed_old = pack_bundle(old_bundle, tmp_path / "old.edgeb").path
    packed_new = pack_bundle(new_bundle, tmp_path / "new.edgeb").path

    for old, new, out in (
        (old_bundle.path, new_bundle.path, tmp_path / "made"),
        (packed_old, new_bundle.path, tmp_path / "made"),
        (old_bundle.path, packed_new, tmp_path / "made.edgeb"),
    ):
        diff = diff_paths(old, new, tmp_path / "patch")
        digest = patch_path(old, tmp_path / "patch", out)

        made = open_bundle(out)
        made.verify()
        assert made.manifest_bytes == new_bundle.manifest_bytes
        assert digest == made.digest == new_bundle.digest
        assert diff.format == "bundle"
        assert diff.patch_bytes < 2_500 < diff.new_bytes
    assert (tmp_path / "made.edgeb").read_bytes() == packed_new.read_bytes()


def test_a_bundle_patch_from_another_bundle_is_refused(
    tmp_path: Path, old_bundle: Bundle, new_bundle: Bundle
) -> None:
    diff_paths(old_bundle.path, new_bundle.path, tmp_path / "patch")

    with pytest.raises(BaseMismatchError):
        patch_path(new_bundle.path, tmp_path / "patch", tmp_path / "made")
    with pytest.raises(PatchLimitError):
        patch_path(old_bundle.path, tmp_path / "patch", tmp_path / "made", max_bytes=10_000)

    assert not (tmp_path / "made").exists()


def test_a_bundle_and_a_file_make_no_patch(tmp_path: Path, old_bundle: Bundle) -> None:
    with pytest.raises(PatchPathError, match="two bundles"):
        diff_paths(old_bundle.path, write(tmp_path / "new", NEW), tmp_path / "patch")


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    old, new = write(tmp_path / "old", OLD), write(tmp_path / "new", NEW)
    diff_paths(old, new, tmp_path / "patch")

    with pytest.raises(PatchPathError, match=f"^{tmp_path}/gone: No such file"):
        diff_paths(old, tmp_path / "gone", tmp_path / "other")
    with pytest.raises(PatchPathError, match=f"^{tmp_path}/no/made: there is no folder"):
        patch_path(old, tmp_path / "patch", tmp_path / "no" / "made")
    with pytest.raises(PatchFormatError, match=f"^{new}: expected a patch"):
        patch_path(old, new, tmp_path / "made")
    (tmp_path / "folder").mkdir()
    for write_onto in (
        lambda out: diff_paths(old, new, out),
        lambda out: patch_path(old, tmp_path / "patch", out),
    ):
        with pytest.raises(
            PatchPathError, match=f"^{tmp_path}/folder: expected the name of a file"
        ):
            write_onto(tmp_path / "folder")
    (tmp_path / "folder").rmdir()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old", "patch"]


def test_every_damage_to_a_bundle_patch_is_refused_or_makes_no_difference(
    tmp_path: Path, old_bundle: Bundle, new_bundle: Bundle
) -> None:
    diff_paths(old_bundle.path, new_bundle.path, tmp_path / "patch")
    patch = (tmp_path / "patch").read_bytes()
    damaged = [patch[:at] + bytes([patch[at] ^ 1]) + patch[at + 1 :] for at in range(len(patch))]
    damaged += [patch[:at] for at in range(0, len(patch), 7)] + [patch + b"\0"]

    for other in damaged[::3]:
        write(tmp_path / "patch", other)
        try:
            digest = patch_path(old_bundle.path, tmp_path / "patch", tmp_path / "made")
        except BundleError:
            continue
        assert digest == new_bundle.digest
        open_bundle(tmp_path / "made").verify()


def test_codes_of_formats_are_never_given_twice() -> None:
    assert all(low < high for low, high in pairwise(sorted(CODES.values())))
    assert CODES["bsdiff4"] == 1
    assert set(FORMATS) <= set(CODES)
