"""Bounded reading of flatbuffers: every offset is checked, and the work has a limit.

A hostile file can share one table a million times; what is read is therefore counted, and reading
stops when it exceeds what an honest file of that size can need.

Source: flatbuffers' internals page (vtables, vectors).
"""

import struct

_WORK_PER_BYTE = 16
_WORK_AT_LEAST = 1 << 20


class FlatbufferError(ValueError):
    """The bytes are not a sound flatbuffer."""


class Flatbuffer:
    """The bytes of one file. Every method raises FlatbufferError out of bounds."""

    def __init__(self, data: bytes, identifier: bytes) -> None:
        if data[4:8] != identifier:
            raise FlatbufferError(f"expected the identifier {identifier!r}")
        self._data = data
        self._work = _WORK_AT_LEAST + _WORK_PER_BYTE * len(data)

    def root(self) -> int:
        """Return where the root table is."""
        return self._follow(0)

    def integer(self, table: int | None, field: int, form: str, default: int) -> int:
        """Return a number of a table; `form` is one of struct's, such as "<i"."""
        at = self._field(table, field)
        return default if at is None else self._number(form, at)

    def boolean(self, table: int | None, field: int) -> bool:
        """Return a truth value of a table, false where it is absent."""
        return self.integer(table, field, "<B", 0) != 0

    def table(self, table: int | None, field: int) -> int | None:
        """Return a table of a table, or None where it is absent."""
        at = self._field(table, field)
        return None if at is None else self._follow(at)

    def tables(self, table: int | None, field: int) -> list[int]:
        """Return the tables of a vector of them."""
        start, count = self._vector(table, field, 4)
        return [self._follow(start + 4 * index) for index in range(count)]

    def integers(self, table: int | None, field: int) -> tuple[int, ...] | None:
        """Return a vector of 32-bit integers, or None where it is absent."""
        if self._field(table, field) is None:
            return None
        start, count = self._vector(table, field, 4)
        return struct.unpack_from(f"<{count}i", self._data, start)

    def text(self, table: int | None, field: int) -> str:
        """Return a string, empty where it is absent."""
        return self.content(table, field).decode("utf-8", "replace")

    def length(self, table: int | None, field: int, element_bytes: int = 1) -> int:
        """Return how many elements a vector has, 0 where it is absent."""
        return self._vector(table, field, element_bytes)[1]

    def is_empty(self, table: int | None, field: int) -> bool:
        """Return whether a vector has no element; it is not read, so asking often costs nothing."""
        at = self._field(table, field)
        return at is None or self._number("<I", self._follow(at)) == 0

    def content(self, table: int | None, field: int) -> bytes:
        """Return a vector of bytes, empty where it is absent."""
        start, count = self._vector(table, field, 1)
        return self._data[start : start + count]

    def span(self, offset: int, size: int) -> bytes:
        """Return bytes that lie behind the flatbuffer itself."""
        self._spend(offset, size)
        return self._data[offset : offset + size]

    def _vector(self, table: int | None, field: int, element_bytes: int) -> tuple[int, int]:
        at = self._field(table, field)
        if at is None:
            return 0, 0
        start = self._follow(at)
        count = self._number("<I", start)
        self._spend(start + 4, count * element_bytes)
        return start + 4, count

    def _field(self, table: int | None, field: int) -> int | None:
        if table is None:
            return None
        vtable = table - self._number("<i", table)
        entry = 4 + 2 * field
        if entry + 2 > self._number("<H", vtable):
            return None
        offset = self._number("<H", vtable + entry)
        return table + offset if offset else None

    def _follow(self, at: int) -> int:
        target = at + self._number("<I", at)
        self._spend(target, 4)
        return target

    def _number(self, form: str, at: int) -> int:
        self._spend(at, struct.calcsize(form))
        value: int = struct.unpack_from(form, self._data, at)[0]
        return value

    def _spend(self, at: int, size: int) -> None:
        if not 0 <= at <= at + size <= len(self._data):
            raise FlatbufferError("an offset leads out of the file")
        self._work -= size
        if self._work < 0:
            raise FlatbufferError("tables are shared more often than in any honest file")
