"""Arrays in an .npz: read from strangers without trust, written the same on every machine.

``numpy.load`` is not used: it follows pickles when asked, evaluates the header as Python, and
allocates what the header says. Here a member is plain numbers or booleans, its header is matched
against the one form that numpy writes, and every size is bounded before memory is taken.
"""

import io
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgec_bundle._zip import write_members
from edgec_bundle.errors import ArrayError

MAX_ARRAYS = 256
MAX_RATIO = 1000  # of one member; deflate itself ends at about 1032
RATIO_FREE_BYTES = 1 << 20  # a small array of zeros compresses well, and harms nobody
_MAX_HEADER_BYTES = 4096

_NAME = re.compile(r"[\x20-\x7e]{1,128}")
_HEADER = re.compile(
    rb"\{'descr': '([<|][a-z][0-9]{1,2})', 'fortran_order': (False|True), "
    rb"'shape': \(((?:[0-9]{1,10}, ?)*(?:[0-9]{1,10})?)\), \} *\n"
)
_DTYPES = frozenset(
    ("|b1", "|i1", "|u1", *(f"<{kind}{size}" for kind in "iu" for size in (2, 4, 8)))
) | {"<f2", "<f4", "<f8"}


def read_npz(data: bytes, max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays in `data`, by name, in their order; writable and C-contiguous.

    Args:
        data: the bytes of an .npz as ``numpy.savez`` or ``numpy.savez_compressed`` writes it,
            of any origin.
        max_bytes: what `data`, and likewise all arrays together, may at most take.

    Raises:
        ArrayError: malformed, larger than `max_bytes`, compressed more than 1000:1, more than
            256 arrays, a name twice, or another dtype than bool, int, uint or float.
    """
    if len(data) > max_bytes:
        raise ArrayError(f"expected at most {max_bytes} bytes of arrays, got {len(data)}")
    if data.count(b"PK\1\2") > 2 * MAX_ARRAYS:  # before zipfile makes an object of each
        raise ArrayError(f"expected at most {MAX_ARRAYS} arrays, got more")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            _check_members(members, max_bytes)
            return {one.filename[:-4]: _read_member(archive, one) for one in members}
    except (
        zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError,
        ValueError, KeyError, IndexError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        raise ArrayError(f"expected a well-formed .npz: {error}") from error


def write_npz(arrays: Mapping[str, npt.ArrayLike]) -> bytes:
    """Return `arrays` as .npz bytes: uncompressed, sorted by name, without dates.

    Equal arrays (names, dtypes, shapes, values) give equal bytes everywhere.

    Raises:
        ArrayError: a name or dtype that `read_npz` would refuse.
    """
    if len(arrays) > MAX_ARRAYS:
        raise ArrayError(f"expected at most {MAX_ARRAYS} arrays, got {len(arrays)}")
    members = [(f"{name}.npy", _write_array(name, arrays[name])) for name in sorted(arrays)]
    sink = io.BytesIO()
    write_members(sink.write, members)
    return sink.getvalue()


def _check_members(members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    if len(members) > MAX_ARRAYS:
        raise ArrayError(f"expected at most {MAX_ARRAYS} arrays, got {len(members)}")
    if len({one.filename for one in members}) != len(members):
        raise ArrayError("expected distinct array names, got one twice")
    if sum(one.file_size for one in members) > max_bytes + _MAX_HEADER_BYTES * len(members):
        raise ArrayError(f"expected at most {max_bytes} bytes of arrays, got more")
    for one in members:
        if not one.filename.endswith(".npy") or not _NAME.fullmatch(one.filename[:-4]):
            raise ArrayError(f"expected a member like NAME.npy, got {one.filename[:80]!r}")
        if one.flag_bits & 0x1 or one.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise ArrayError(f"expected {one.filename} stored or deflated, not encrypted")
        if one.file_size > max(RATIO_FREE_BYTES, MAX_RATIO * one.compress_size):
            raise ArrayError(f"expected {one.filename} compressed at most {MAX_RATIO}:1")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    with archive.open(member) as stream:
        dtype, fortran_order, shape = _read_header(stream, member.filename)
        wanted = math.prod(shape) * dtype.itemsize
        if wanted > member.file_size:
            raise ArrayError(f"{member.filename}: expected {wanted} bytes, got fewer")
        buffer = bytearray(wanted)
        view = memoryview(buffer)
        filled = 0
        while filled < wanted:
            chunk = stream.read(min(1 << 20, wanted - filled))
            if not chunk:
                raise ArrayError(f"{member.filename}: expected {wanted} bytes, got {filled}")
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        if stream.read(1):
            raise ArrayError(f"{member.filename}: expected {wanted} bytes, got more")
    if dtype == np.bool_ and wanted and np.frombuffer(buffer, np.uint8).max() > 1:
        raise ArrayError(f"{member.filename}: expected booleans of 0 and 1")
    array = np.frombuffer(buffer, dtype).reshape(shape, order="F" if fortran_order else "C")
    return np.asarray(array, order="C")


def _read_header(stream: IO[bytes], name: str) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY" or start[6:] not in (b"\1\0", b"\2\0"):
        raise ArrayError(f"{name}: expected an array in numpy's format 1.0 or 2.0")
    length = int.from_bytes(stream.read(2 if start[6] == 1 else 4), "little")
    if length > _MAX_HEADER_BYTES:
        raise ArrayError(f"{name}: expected a header of at most {_MAX_HEADER_BYTES} bytes")
    found = _HEADER.fullmatch(stream.read(length))
    if found is None or found[1].decode() not in _DTYPES:
        raise ArrayError(f"{name}: expected an array of bool, int, uint or float")
    shape = tuple(int(size) for size in found[3].decode().split(",") if size.strip())
    if len(shape) > 8 or any(size >= 2**31 for size in shape):
        raise ArrayError(f"{name}: expected at most 8 dimensions below 2**31")
    return np.dtype(found[1].decode()), found[2] == b"True", shape


def _write_array(name: str, value: npt.ArrayLike) -> bytes:
    array = np.asarray(value)
    array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    if not _NAME.fullmatch(name) or array.dtype.str not in _DTYPES or array.ndim > 8:
        raise ArrayError(
            f"expected a printable name and bool, int, uint or float, "
            f"got {name[:80]!r} of {array.dtype}"
        )
    header = (
        f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {array.shape!r}, }}"
    ).encode()
    padding = -(10 + len(header) + 1) % 64
    length = len(header) + padding + 1
    start = b"\x93NUMPY\1\0" + length.to_bytes(2, "little")
    return start + header + b" " * padding + b"\n" + array.tobytes()
