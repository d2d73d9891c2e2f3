"""The one zip layout that edgec writes: stored members, 1980 as their time, nothing optional.

Equal members give equal bytes on every machine and with every version of Python and zlib. The
layout is plain enough (no zip64, no extra fields, no comments, no data descriptors) that the
reader below accepts exactly it, in bounded memory, and refuses every other zip.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")

_VERSION_NEEDED = 20
_MADE_BY = 3 << 8 | 20  # Unix, so that the permissions below count
_DATE = 0x21  # 1980-01-01, the first that zip can write; the time is 0
_PERMISSIONS = 0o100644 << 16
_LIMIT = 2**32 - 1  # beyond it zip64 would be needed

MAX_DIRECTORY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One stored member: its bytes lie at `offset`, as they are."""

    name: str
    offset: int
    bytes: int
    crc32: int


def write_members(write: Callable[[bytes], object], members: Iterable[tuple[str, bytes]]) -> None:
    """Write a zip of `members`, in their order, by calls of `write`.

    Raises:
        ValueError: a name is not ASCII, or the zip would need 4 GiB or more.
    """
    directory = bytearray()
    offset = count = 0
    for name, data in members:
        if offset + len(data) + len(directory) > _LIMIT - (1 << 17) or count >= 0xFFFF:
            raise ValueError("expected less than 4 GiB of files")
        encoded = name.encode("ascii")
        crc = zlib.crc32(data)
        sizes = (crc, len(data), len(data))
        local = _LOCAL.pack(
            b"PK\3\4", _VERSION_NEEDED, 0, 0, 0, _DATE, *sizes, len(encoded), 0
        )  # fmt: skip
        directory += _CENTRAL.pack(
            b"PK\1\2", _MADE_BY, _VERSION_NEEDED, 0, 0, 0, _DATE, *sizes,
            len(encoded), 0, 0, 0, 0, _PERMISSIONS, offset,
        )  # fmt: skip
        directory += encoded
        write(local + encoded)
        write(data)
        offset += len(local) + len(encoded) + len(data)
        count += 1
    write(bytes(directory))
    write(_END.pack(b"PK\5\6", 0, 0, count, count, len(directory), offset, 0))


def read_directory(fd: int) -> tuple[Member, ...]:
    """Return the members of the zip open as `fd`, in their order. Reads only its last part.

    Raises:
        ValueError: not exactly the layout that `write_members` writes.
    """
    size = os.fstat(fd).st_size
    end = os.pread(fd, _END.size, max(0, size - _END.size))
    if len(end) != _END.size or end[:4] != b"PK\5\6":
        raise ValueError("not an .edgeb file: expected an uncompressed zip without a comment")
    count, directory_bytes, directory_at = struct.unpack("<10xHII2x", end)
    if directory_bytes > MAX_DIRECTORY_BYTES or directory_at + directory_bytes + _END.size != size:
        raise ValueError("expected the directory right before the end of the zip")
    if end != _END.pack(b"PK\5\6", 0, 0, count, count, directory_bytes, directory_at, 0):
        raise ValueError("expected a zip in one part")
    directory = os.pread(fd, directory_bytes, directory_at)
    members: list[Member] = []
    position = expected_at = 0
    for _ in range(count):
        member, position = _read_central(directory, position, expected_at)
        _check_local(fd, member)
        members.append(member)
        expected_at = member.offset + member.bytes
    if position != len(directory) or expected_at != directory_at:
        raise ValueError("expected members and directory without gaps")
    return tuple(members)


def _read_central(directory: bytes, position: int, at: int) -> tuple[Member, int]:
    """Return the member described at `position`, whose local header must start at `at`."""
    fixed = directory[position : position + _CENTRAL.size]
    if len(fixed) != _CENTRAL.size:
        raise ValueError("expected a complete zip directory")
    crc, size, name_bytes = struct.unpack("<16xI4xIH16x", fixed)
    expected = _CENTRAL.pack(
        b"PK\1\2", _MADE_BY, _VERSION_NEEDED, 0, 0, 0, _DATE, crc, size, size,
        name_bytes, 0, 0, 0, 0, _PERMISSIONS, at,
    )  # fmt: skip
    if fixed != expected:
        raise ValueError("expected a stored member without date, comment or extra fields")
    position += _CENTRAL.size
    name = directory[position : position + name_bytes]
    if not name.isascii() or len(name) != name_bytes:
        raise ValueError("expected complete ASCII names")
    return Member(name.decode("ascii"), at + _LOCAL.size + name_bytes, size, crc), (
        position + name_bytes
    )


def _check_local(fd: int, member: Member) -> None:
    encoded = member.name.encode("ascii")
    expected = _LOCAL.pack(
        b"PK\3\4", _VERSION_NEEDED, 0, 0, 0, _DATE,
        member.crc32, member.bytes, member.bytes, len(encoded), 0,
    )  # fmt: skip
    header = expected + encoded
    if os.pread(fd, len(header), member.offset - len(header)) != header:
        raise ValueError(f"expected {member.name!r} described alike in both places")
