"""The tensors of a TFLite file, found by its flatbuffer schema: weights and their scales.

Reads only the fields it needs, each within bounds and a fixed number of times.

Source: tensorflow/lite/schema/schema.fbs, version 3; flatbuffers' internals page.
"""

import struct
from math import prod

from edgec_bundle.delta.tensor.model import (
    MAX_RANK,
    MAX_TENSORS,
    Bytes,
    NotAModelError,
    Tensor,
    without_overlaps,
)

_IDENTIFIER = b"TFL3"
_DTYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 7: "int16", 9: "int8", 17: "int4"}
_BITS = {"float32": 32, "float16": 16, "int32": 32, "uint8": 8, "int16": 16, "int8": 8, "int4": 4}
_MAX_SUBGRAPHS = 1024
_MAX_NAME = 1024

# Field numbers of the schema's tables.
_MODEL_SUBGRAPHS, _MODEL_BUFFERS = 2, 4
_SUBGRAPH_TENSORS = 0
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME, _TENSOR_QUANTIZATION = range(5)
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = range(3)
_QUANTIZATION_MIN, _QUANTIZATION_MAX, _QUANTIZATION_SCALE = range(3)


def tflite_tensors(data: Bytes) -> tuple[Tensor, ...]:
    """Return the constant tensors of a TFLite file, and its vectors of scales as float32.

    Raises:
        NotAModelError: `data` is not a sound TFLite file.
    """
    if data[4:8] != _IDENTIFIER:
        raise NotAModelError("expected a TFLite file")
    file = _File(data)
    model = file.follow(0)
    buffers = file.tables(model, _MODEL_BUFFERS, MAX_TENSORS)
    found: list[Tensor] = []
    for graph in file.tables(model, _MODEL_SUBGRAPHS, _MAX_SUBGRAPHS):
        for table in file.tables(graph, _SUBGRAPH_TENSORS, MAX_TENSORS - len(found)):
            found += _tensor(file, table, buffers)
    return without_overlaps(found)


def _tensor(file: "_File", table: int, buffers: list[int]) -> list[Tensor]:
    name = file.text(table, _TENSOR_NAME)
    found: list[Tensor] = []
    number = file.scalar(table, _TENSOR_BUFFER, "<I", 0)
    dtype = _DTYPES.get(file.scalar(table, _TENSOR_TYPE, "<b", 0))
    if dtype is not None and 0 < number < len(buffers):
        shape = file.shape(table, _TENSOR_SHAPE)
        offset, size = file.content(buffers[number])
        if size != (prod(shape) * _BITS[dtype] + 7) // 8:
            shape = (size * 8 // _BITS[dtype],)  # sparse: what is left of it has no shape
        if size and size * 8 % _BITS[dtype] == 0:
            found.append(Tensor(name, dtype, shape, offset, size))
    quantization = file.table(table, _TENSOR_QUANTIZATION)
    if quantization is not None:
        for suffix, field in (
            ("scale", _QUANTIZATION_SCALE),
            ("min", _QUANTIZATION_MIN),
            ("max", _QUANTIZATION_MAX),
        ):
            offset, count = file.vector(quantization, field, 4)
            if count:
                found.append(Tensor(f"{name}/{suffix}", "float32", (count,), offset, 4 * count))
    return found


class _File:
    """Bounded reading of a flatbuffer. Every method raises NotAModelError out of bounds."""

    def __init__(self, data: Bytes) -> None:
        self._data = data
        self._size = len(data)

    def follow(self, at: int) -> int:
        """Return where the offset stored at `at` points."""
        target: int = at + self._number("<I", at)
        return self._within(target, 4)

    def scalar(self, table: int, field: int, form: str, default: int) -> int:
        """Return a number of a table."""
        at = self._field(table, field)
        return default if at is None else self._number(form, at)

    def table(self, table: int, field: int) -> int | None:
        """Return a table of a table, or None where it is absent."""
        at = self._field(table, field)
        return None if at is None else self.follow(at)

    def tables(self, table: int, field: int, limit: int) -> list[int]:
        """Return the tables of a vector of them."""
        offset, count = self.vector(table, field, 4)
        if count > limit:
            raise NotAModelError(f"expected at most {limit} tables, got {count}")
        return [self.follow(offset + 4 * index) for index in range(count)]

    def vector(self, table: int, field: int, element_bytes: int) -> tuple[int, int]:
        """Return where a vector's elements start, and how many there are."""
        at = self._field(table, field)
        if at is None:
            return 0, 0
        start = self.follow(at)
        count = self._number("<I", start)
        self._within(start + 4, count * element_bytes)
        return start + 4, count

    def text(self, table: int, field: int) -> str:
        """Return a string, cut to a sensible length."""
        offset, count = self.vector(table, field, 1)
        return bytes(self._data[offset : offset + min(count, _MAX_NAME)]).decode("utf-8", "replace")

    def shape(self, table: int, field: int) -> tuple[int, ...]:
        """Return a vector of dimensions; (0,) if it is none."""
        offset, count = self.vector(table, field, 4)
        if count > MAX_RANK:
            return (0,)
        return tuple(max(0, self._number("<i", offset + 4 * index)) for index in range(count))

    def content(self, buffer: int) -> tuple[int, int]:
        """Return offset and bytes of a buffer, which may lie behind the flatbuffer."""
        offset, size = self.vector(buffer, _BUFFER_DATA, 1)
        if not size:
            offset = self.scalar(buffer, _BUFFER_OFFSET, "<Q", 0)
            size = self.scalar(buffer, _BUFFER_SIZE, "<Q", 0)
            if offset <= 1 or not size:
                return 0, 0
        return self._within(offset, size), size

    def _field(self, table: int, field: int) -> int | None:
        vtable = self._within(table - self._number("<i", table), 4)
        entry = 4 + 2 * field
        if entry + 2 > self._number("<H", vtable):
            return None
        offset = self._number("<H", vtable + entry)
        return table + offset if offset else None

    def _number(self, form: str, at: int) -> int:
        size = struct.calcsize(form)
        self._within(at, size)
        value: int = struct.unpack(form, self._data[at : at + size])[0]
        return value

    def _within(self, at: int, size: int) -> int:
        if not 0 <= at <= at + size <= self._size:
            raise NotAModelError("expected a sound TFLite file")
        return at
