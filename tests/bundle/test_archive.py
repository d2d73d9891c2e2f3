"""A bundle is the same as folder and as file, and nothing else passes for one."""

import io
import os
import random
import shutil
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec_bundle.archive import (
    Bundle,
    is_bundle,
    open_bundle,
    pack_bundle,
    restore_bundle,
    write_bundle,
)
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import ArchiveError, BundleError, ManifestError
from edgec_bundle.manifest import Manifest, Runtime, TensorSpec

DRAFT = Manifest(
    model="digits",
    version="1.0.0",
    release=1,
    profile="rpi4",
    format="tflite",
    runtime=Runtime("litert"),
    inputs=(TensorSpec("image", "uint8", (-1, 32, 32, 1)),),
    outputs=(TensorSpec("probabilities", "float32", (-1, 10)),),
)
MODEL = bytes(range(256)) * 4
CONTENTS = {
    "report": ("facts/report.json", b'{"accuracy":0.99}'),
    "model": ("model.tflite", MODEL),
    "labels": ("labels.txt", b"zero\none\n"),
}
NEIGHBOURS = {"report.html": b"<p>fine</p>", "targets.json": b"{}"}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "digits", DRAFT, CONTENTS, NEIGHBOURS)


@pytest.fixture
def packed(tmp_path: Path, bundle: Bundle) -> Bundle:
    return pack_bundle(bundle, tmp_path / "digits.edgeb", ["targets.json"])


def names_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_written_bundle_is_read_back_by_role(bundle: Bundle) -> None:
    assert bundle.manifest == Manifest.from_bytes(bundle.manifest_bytes)
    assert bundle.digest == bundle.manifest.digest == sha256_hex(bundle.manifest_bytes)
    assert [entry.role for entry in bundle.manifest.files] == ["model", "labels", "report"]
    assert {role: bundle.read(role) for role in CONTENTS} == {
        role: data for role, (_, data) in CONTENTS.items()
    }
    assert names_in(bundle.path) == [
        "facts/report.json", "labels.txt", "manifest.json", "model.tflite", "report.html",
        "targets.json",
    ]  # fmt: skip
    with pytest.raises(ManifestError, match="golden"):
        bundle.read("golden")


def test_the_file_form_is_the_same_bundle(bundle: Bundle, packed: Bundle) -> None:
    packed.verify()

    assert packed.manifest_bytes == bundle.manifest_bytes
    assert packed.read("model") == MODEL
    assert is_bundle(bundle.path)
    assert is_bundle(packed.path)
    assert not is_bundle(bundle.path / "model.tflite")
    assert not is_bundle(bundle.path.parent)


def test_neighbours_are_packed_only_by_name(bundle: Bundle, packed: Bundle) -> None:
    assert bundle.neighbour("report.html") == b"<p>fine</p>"
    assert bundle.neighbour("measurements.json") is None
    assert packed.neighbour("targets.json") == b"{}"
    assert packed.neighbour("report.html") is None
    with pytest.raises(ValueError, match="measurements"):
        bundle.neighbour("model.tflite")
    with pytest.raises(ArchiveError, match="measurements"):
        pack_bundle(bundle, bundle.path.parent / "x.edgeb", ["measurements.json"])
    assert not (bundle.path.parent / "x.edgeb").exists()


def test_equal_bundles_pack_to_equal_bytes_wherever_they_come_from(
    tmp_path: Path, packed: Bundle
) -> None:
    shutil.copytree(tmp_path / "digits", tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*"):
        os.utime(path, (1, 1))

    again = pack_bundle(open_bundle(tmp_path / "elsewhere"), tmp_path / "a", ["targets.json"])
    repacked = pack_bundle(packed, tmp_path / "b", ["targets.json"])

    assert (tmp_path / "a").read_bytes() == packed.path.read_bytes()
    assert (tmp_path / "b").read_bytes() == packed.path.read_bytes()
    assert again.digest == repacked.digest


def test_the_form_of_a_file_never_changes(packed: Bundle) -> None:
    assert sha256_hex(packed.path.read_bytes()) == (
        "b5d31628af6aa76b34aa04b72101a9184872d6dfb395bc0078f3086ea64a0efc"
    )


def test_any_zip_tool_can_read_a_bundle(packed: Bundle) -> None:
    with zipfile.ZipFile(packed.path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "manifest.json", "model.tflite", "labels.txt", "facts/report.json", "targets.json",
        ]  # fmt: skip
        assert archive.read("model.tflite") == MODEL
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@given(
    st.dictionaries(
        st.sampled_from(["labels", "report", "sbom", "own-role"]),
        st.binary(max_size=50),
        max_size=4,
    ),
    st.binary(max_size=300),
)
def test_writing_packing_and_restoring_keep_every_byte(
    tmp_path_factory: pytest.TempPathFactory, extra: dict[str, bytes], model: bytes
) -> None:
    folder = tmp_path_factory.mktemp("b")
    contents = {role: (f"{role}.bin", data) for role, data in {**extra, "model": model}.items()}
    bundle = write_bundle(folder / "one", DRAFT, contents)

    packed = pack_bundle(bundle, folder / "two.edgeb")
    files = {entry.role: packed.read(entry.role) for entry in packed.manifest.files}
    restored = restore_bundle(folder / "three", packed.manifest, files)
    repacked = restore_bundle(folder / "four.edgeb", packed.manifest, files)

    assert files == {**extra, "model": model}
    assert restored.manifest_bytes == bundle.manifest_bytes
    assert names_in(folder / "three") == names_in(folder / "one")
    assert repacked.path.read_bytes() == packed.path.read_bytes()


def test_restoring_other_bytes_than_pinned_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    files = {role: data for role, (_, data) in CONTENTS.items()}

    for wrong in ({**files, "model": b"other"}, {"model": MODEL}):
        with pytest.raises(ArchiveError, match="pinned"):
            restore_bundle(tmp_path / "out", bundle.manifest, wrong)

    assert not (tmp_path / "out").exists()


def test_an_earlier_bundle_is_replaced_with_its_neighbours(tmp_path: Path, bundle: Bundle) -> None:
    later = write_bundle(bundle.path, DRAFT, {"model": ("m.onnx", b"new")})

    assert later.read("model") == b"new"
    assert names_in(bundle.path) == ["m.onnx", "manifest.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out" / "empty").mkdir(parents=True)

    assert write_bundle(tmp_path / "out", DRAFT, CONTENTS).read("model") == MODEL


@pytest.mark.parametrize("stranger", ["thesis.tex", "facts/notes.txt", ".git/config"])
def test_a_folder_with_anything_else_is_never_replaced(bundle: Bundle, stranger: str) -> None:
    (bundle.path / stranger).parent.mkdir(exist_ok=True)
    (bundle.path / stranger).write_text("years of work")
    before = names_in(bundle.path)

    with pytest.raises(ArchiveError, match=stranger.split("/")[-1]):
        write_bundle(bundle.path, DRAFT, {"model": ("m.onnx", b"new")})

    assert names_in(bundle.path) == before
    assert open_bundle(bundle.path).read("model") == MODEL


def test_a_file_or_link_is_never_replaced_by_a_folder(tmp_path: Path, bundle: Bundle) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(bundle.path)

    for name in ("file", "link", "file/below"):
        with pytest.raises(ArchiveError):
            write_bundle(tmp_path / name, DRAFT, CONTENTS)

    assert (tmp_path / "file").read_text() == "precious"


def test_a_bundle_that_cannot_be_written_leaves_the_earlier_one(
    tmp_path: Path, bundle: Bundle
) -> None:
    for contents in ({}, {"model": ("../m", b"")}, {**CONTENTS, "golden": ("g", b"")}):
        with pytest.raises(ManifestError):
            write_bundle(bundle.path, DRAFT, contents)
    with pytest.raises(ValueError, match="notes"):
        write_bundle(bundle.path, DRAFT, CONTENTS, {"notes.txt": b""})

    open_bundle(bundle.path).verify()
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"!"),
    "shorter": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "other": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
    "a folder": replaced_by_folder,
    "a pipe": replaced_by_pipe,
    "a broken link": lambda path: (path.unlink(), path.symlink_to("/nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("name", ["model.tflite", "manifest.json"])
def test_a_damaged_folder_is_refused(
    bundle: Bundle, name: str, damage: Callable[[Path], object]
) -> None:
    damage(bundle.path / name)

    with pytest.raises(BundleError):
        open_bundle(bundle.path).verify()


def test_what_is_no_bundle_is_said(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.edgeb").write_text("hello")
    os.mkfifo(tmp_path / "pipe.edgeb")

    for name in ("none", "folder", "text.edgeb", "pipe.edgeb"):
        with pytest.raises(ArchiveError, match=name):
            open_bundle(tmp_path / name)


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(sink, "w", method) as archive:
        warnings.simplefilter("ignore")  # of a name twice, which is the point
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = method
            info.external_attr = 0o100644 << 16
            archive.writestr(info, data)
    return sink.getvalue()


def test_only_the_one_layout_is_read(tmp_path: Path, packed: Bundle) -> None:
    good = packed.path.read_bytes()
    with zipfile.ZipFile(packed.path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    assert zipped(members) == good

    hostile = {
        "nothing": b"",
        "an empty zip": zipped([]),
        "no manifest": zipped(members[1:]),
        "another order": zipped([members[0], members[2], members[1], *members[3:]]),
        "a file missing": zipped([*members[:1], *members[2:]]),
        "no files": zipped(members[:1]),
        "a file twice": zipped([*members[:2], *members[1:]]),
        "two manifests": zipped([*members, members[0]]),
        "a stranger": zipped([*members, ("thesis.tex", b"")]),
        "a path up": zipped([*members, ("../x", b"")]),
        "an absolute path": zipped([*members, ("/etc/x", b"")]),
        "a neighbour twice": zipped([*members, members[-1]]),
        "neighbours out of order": zipped([*members, ("report.html", b"")]),
        "compressed": zipped(members, zipfile.ZIP_DEFLATED),
        "a manifest that is none": zipped([("manifest.json", b"{}"), *members[1:]]),
        "a manifest of 2 MiB": zipped([("manifest.json", b" " * (2 << 20)), *members[1:]]),
        "another size": zipped([members[0], ("model.tflite", MODEL[:-1]), *members[2:]]),
        "a comment": good[:-2] + b"\5\0hello",
        "a prefix": b"#!/bin/sh\n" + good,
        "a suffix": good + b"\0",
        "twice": good + good,
        "a million members": good[:-14] + struct.pack("<HHIIH", 65535, 65535, 46, 0, 0),
    }
    for name, data in hostile.items():
        packed.path.write_bytes(data)
        try:
            open_bundle(packed.path)
        except BundleError:
            continue
        pytest.fail(f"{name} passed for a bundle")


def test_every_flipped_or_missing_byte_is_found(packed: Bundle) -> None:
    good = packed.path.read_bytes()
    chance = random.Random(5)

    for at in range(len(good)):
        flipped = bytearray(good)
        flipped[at] ^= 1 << chance.randrange(8)
        packed.path.write_bytes(flipped)
        with pytest.raises(BundleError):  # noqa: PT012
            found = open_bundle(packed.path)
            found.verify()
            found.neighbour("targets.json")
    for end in range(0, len(good), 13):
        packed.path.write_bytes(good[:end])
        with pytest.raises(BundleError):
            open_bundle(packed.path)


def test_a_huge_directory_is_refused_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "huge.edgeb"
    with open(path, "wb") as stream:
        stream.seek(200 << 20)
        stream.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 200 << 20, 0, 0))

    tracemalloc.start()
    with pytest.raises(ArchiveError):
        open_bundle(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1 << 20
