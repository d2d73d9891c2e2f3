"""Arrays survive the way there and back; whatever else an .npz holds is refused, cheaply."""

import io
import pickle
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import ArrayError
from edgec_bundle.npz import read_npz, write_npz

DTYPES = ["?", *"bBhHiIqQ", "e", "f", "d"]

arrays = st.dictionaries(
    st.from_regex(r"[\x20-\x7e]{1,20}", fullmatch=True),
    hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)),
    max_size=4,
)
EXAMPLE = {
    "inputs": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "labels": np.array([7, -1], np.int64),
}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].tobytes() == right[name].tobytes()
        for name in left
    )


@given(arrays)
def test_reading_is_the_inverse_of_writing(values: dict[str, npt.NDArray[Any]]) -> None:
    data = write_npz(values)

    assert same(read_npz(data, len(data)), values)
    assert write_npz(dict(reversed(values.items()))) == data


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@given(values=arrays)
def test_what_numpy_writes_is_read(
    save: Callable[..., None], values: dict[str, npt.NDArray[Any]]
) -> None:
    values = {name: array for name, array in values.items() if name.isidentifier()}
    values["file_"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    sink = io.BytesIO()
    save(sink, **values)

    read = read_npz(sink.getvalue(), 1 << 20)

    assert same(read, values)
    assert all(array.flags.c_contiguous and array.flags.writeable for array in read.values())


def test_numpy_reads_what_is_written() -> None:
    with np.load(io.BytesIO(write_npz(EXAMPLE)), allow_pickle=False) as loaded:
        assert same({name: loaded[name] for name in loaded.files}, EXAMPLE)


def test_the_bytes_of_an_npz_never_change() -> None:
    assert sha256_hex(write_npz(EXAMPLE)) == (
        "4e478c09e24dd2a71f846ce36165e1d469fa4830e513b502178f8757c0e0d21c"
    )


def test_big_endian_arrays_are_written_as_little_endian() -> None:
    big = {"a": np.arange(3, dtype=">i4")}

    assert write_npz(big) == write_npz({"a": np.arange(3, dtype="<i4")})


@pytest.mark.parametrize(
    "value", [np.array(["text"]), np.array([None]), np.array([1j]), np.array([b"x"]), {"a": 1}]
)
def test_only_numbers_and_booleans_are_written(value: Any) -> None:
    with pytest.raises(ArrayError):
        write_npz({"a": value})


@pytest.mark.parametrize("name", ["", "a\nb", "é", "a" * 129])
def test_only_printable_names_are_written(name: str) -> None:
    with pytest.raises(ArrayError):
        write_npz({name: np.zeros(1)})


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return sink.getvalue()


def npy(header: str, body: bytes = b"", version: bytes = b"\1\0") -> bytes:
    encoded = header.encode("latin-1") + b"\n"
    length = struct.pack("<H" if version == b"\1\0" else "<I", len(encoded))
    return b"\x93NUMPY" + version + length + encoded + body


def header(descr: str = "|u1", shape: str = "(3,)", order: str = "False") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"


GOOD = npy(header(), b"abc")


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("a pickle was read")


def pickled() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.array([{}], object), allow_pickle=True)
    return sink.getvalue()


HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "a pickle": pickle.dumps([1]),
    "a bare .npy": GOOD,
    "a pickled array": zipped(("a.npy", pickled())),
    "objects": zipped(("a.npy", npy(header("|O"), b"x" * 24))),
    "records": zipped(("a.npy", npy("{'descr': [('x', '<i4')], 'shape': (1,), }", b"x" * 4))),
    "text array": zipped(("a.npy", npy(header("<U1"), b"x" * 12))),
    "times": zipped(("a.npy", npy(header("<M8"), b"x" * 24))),
    "big endian": zipped(("a.npy", npy(header(">i4"), b"x" * 12))),
    "long doubles": zipped(("a.npy", npy(header("<f16"), b"x" * 48))),
    "a bool of 2": zipped(("a.npy", npy(header("|b1"), b"\0\1\2"))),
    "no member name": zipped((".npy", GOOD)),
    "a path": zipped(("a.npy", GOOD), ("../b.txt", GOOD)),
    "not an array": zipped(("a.npy", b"hello")),
    "an empty array file": zipped(("a.npy", b"")),
    "version 3": zipped(("a.npy", npy(header(), b"abc", b"\3\0"))),
    "a header as code": zipped(("a.npy", npy("__import__('os').abort()"))),
    "a header nested deep": zipped(("a.npy", npy("(" * 4000))),
    "a header of 60 kB": zipped(("a.npy", npy(header() + " " * 60_000, b"abc"))),
    "a header of 4 GiB": zipped(("a.npy", b"\x93NUMPY\2\0\xff\xff\xff\xff")),
    "a byte too few": zipped(("a.npy", npy(header(), b"ab"))),
    "a byte too many": zipped(("a.npy", npy(header(), b"abcd"))),
    "a negative size": zipped(("a.npy", npy(header(shape="(-1,)"), b"abc"))),
    "a huge size": zipped(("a.npy", npy(header(shape="(9999999999,)"), b"abc"))),
    "sizes that overflow": zipped(("a.npy", npy(header(shape=f"({'999999999, ' * 8})"), b"abc"))),
    "a huge size times zero": zipped(("a.npy", npy(header(shape="(4294967296, 0)")))),
    "nine dimensions": zipped(("a.npy", npy(header(shape=f"({'1, ' * 9})"), b"a"))),
    "300 arrays": zipped(*((f"a{i}.npy", GOOD) for i in range(300))),
    "100 000 members": zipped(("a.npy", GOOD)) + b"PK\1\2" * 100_000,
    "too large": zipped(("a.npy", npy(header(shape="(200000,)"), bytes(200_000)))),
    "too large together": zipped(
        *((f"a{i}.npy", npy(header(shape="(40000,)"), bytes(40_000))) for i in range(3)),
        method=zipfile.ZIP_DEFLATED,
    ),
    "bz2": zipped(("a.npy", GOOD), method=zipfile.ZIP_BZIP2),
    "lzma": zipped(("a.npy", GOOD), method=zipfile.ZIP_LZMA),
    "cut off": zipped(("a.npy", GOOD))[:-30],
    "encrypted": zipped(("a.npy", GOOD)).replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ArrayError):
        read_npz(data, 100_000)


def test_a_name_twice_is_refused() -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(("a.npy", GOOD), ("a.npy", GOOD))

    with pytest.raises(ArrayError, match="twice"):
        read_npz(data, 100_000)


@pytest.mark.parametrize("limit", [64 << 20, 1 << 30])
def test_a_bomb_is_refused_in_little_memory(limit: int) -> None:
    body = npy(header(shape="(100000000,)"), bytes(100_000_000))
    data = zipped(("a.npy", body), method=zipfile.ZIP_DEFLATED)
    del body
    lying = data.replace(struct.pack("<I", 100_000_000 + 72), struct.pack("<I", 1000))

    for bomb in (data, lying):
        tracemalloc.start()
        with pytest.raises(ArrayError):
            read_npz(bomb, limit)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 << 20


def test_every_flipped_byte_is_refused_or_read_without_harm() -> None:
    sink = io.BytesIO()
    np.savez_compressed(sink, a=np.arange(50), b=np.ones(3, bool))
    chance = random.Random(1)

    for good in (sink.getvalue(), write_npz(EXAMPLE)):
        for at in range(len(good)):
            flipped = bytearray(good)
            flipped[at] ^= 1 << chance.randrange(8)
            try:
                read_npz(bytes(flipped), 100_000)
            except ArrayError:
                continue


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_an_array_error(data: bytes) -> None:
    try:
        read_npz(data, 1000)
    except ArrayError:
        return
