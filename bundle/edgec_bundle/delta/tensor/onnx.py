"""The tensors of an ONNX file: a small protobuf reader that looks at nothing else.

Finds initializers and constants' values of the graph, of those inside its operators, and of its
functions, in `raw_data` or, packed, in `float_data`. Other spellings are left to the caller as
plain bytes, and so is external data.

Source: onnx/onnx.proto3; protobuf's encoding page.
"""

from collections.abc import Iterator
from math import prod

from edgec_bundle.delta.tensor.model import (
    MAX_RANK,
    MAX_TENSORS,
    Bytes,
    NotAModelError,
    Tensor,
    without_overlaps,
)

_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    5: "int16",
    6: "int32",
    10: "float16",
    16: "bfloat16",
    21: "int4",  # unsigned; the difference wraps all the same
    22: "int4",
}
_BITS = {"float32": 32, "uint8": 8, "int8": 8, "int16": 16, "int32": 32}
_BITS |= {"float16": 16, "bfloat16": 16, "int4": 4}
_MAX_FIELDS = 1 << 20  # of one file
_MAX_NAME = 1024
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

_MAX_DEPTH = 8  # of graphs in operators (If, Loop, Scan) of graphs

_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_FUNCTION = 1, 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_FUNCTION_NODE = 7
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 5, 6, 11
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_INTS = 1, 2, 4, 5
_TENSOR_NAME, _TENSOR_RAW = 8, 9


def onnx_tensors(data: Bytes) -> tuple[Tensor, ...]:
    """Return the initializers and constant nodes' values of an ONNX file, nested graphs included.

    Raises:
        NotAModelError: `data` is not a sound ONNX file.
    """
    reader = _Reader(data)
    found: list[Tensor] = []
    graphs = 0
    for field, wire, start, end in reader.fields(0, len(data)):
        if field == _MODEL_IR_VERSION and wire != _VARINT:
            raise NotAModelError("expected an ONNX file")
        if field == _MODEL_GRAPH and wire == _LENGTH:
            graphs += 1
            found += _graph_tensors(reader, start, end, _MAX_DEPTH)
        elif field == _MODEL_FUNCTION and wire == _LENGTH:
            for node in reader.messages(start, end, _FUNCTION_NODE):
                found += _node_tensors(reader, *node, _MAX_DEPTH)
        if len(found) > MAX_TENSORS:
            raise NotAModelError(f"expected at most {MAX_TENSORS} tensors")
    if graphs != 1:
        raise NotAModelError("expected an ONNX file")
    return without_overlaps(found)


def _graph_tensors(reader: "_Reader", start: int, end: int, depth: int) -> list[Tensor]:
    found: list[Tensor] = []
    for field, wire, at, to in reader.fields(start, end):
        if field == _GRAPH_INITIALIZER and wire == _LENGTH:
            found += _tensor(reader, at, to)
        elif field == _GRAPH_NODE and wire == _LENGTH:
            found += _node_tensors(reader, at, to, depth)
        if len(found) > MAX_TENSORS:
            raise NotAModelError(f"expected at most {MAX_TENSORS} tensors")
    return found


def _node_tensors(reader: "_Reader", start: int, end: int, depth: int) -> list[Tensor]:
    """Return what an operator holds: a constant's value, and all of the graphs that it runs."""
    found: list[Tensor] = []
    for attribute in reader.messages(start, end, _NODE_ATTRIBUTE):
        for field, wire, at, to in reader.fields(*attribute):
            if field == _ATTRIBUTE_TENSOR and wire == _LENGTH:
                found += _tensor(reader, at, to)
            elif field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS) and wire == _LENGTH and depth:
                found += _graph_tensors(reader, at, to, depth - 1)
    return found


def _tensor(reader: "_Reader", start: int, end: int) -> list[Tensor]:
    """Return the tensor of a message, or none if no element of it has a place of its own."""
    name, shape, number = "", [], 0
    content: list[tuple[int, int, int]] = []
    for field, wire, at, to in reader.fields(start, end):
        if field == _TENSOR_NAME and wire == _LENGTH:
            name = reader.text(at, to)
        elif field == _TENSOR_TYPE and wire == _VARINT:
            number = reader.varint(at, to)[0]
        elif field == _TENSOR_DIMS:
            shape += reader.varints(at, to)
        elif field in (_TENSOR_RAW, _TENSOR_FLOATS, _TENSOR_INTS) and wire == _LENGTH:
            content.append((field, at, to))
    dtype = _DTYPES.get(number)
    if dtype is None or len(content) != 1 or len(shape) > MAX_RANK:
        return []
    field, at, to = content[0]
    if field == _TENSOR_INTS or (field == _TENSOR_FLOATS and dtype != "float32"):
        return []  # varints
    if (prod(shape) * _BITS[dtype] + 7) // 8 != to - at:
        return []
    return [Tensor(name, dtype, tuple(shape), at, to - at)]


class _Reader:
    """Bounded reading of protobuf. Raises NotAModelError beyond the bounds."""

    def __init__(self, data: Bytes) -> None:
        self._data = data
        self._left = _MAX_FIELDS

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Return (number, wire type, start, end) of each field of a message."""
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise NotAModelError(f"expected at most {_MAX_FIELDS} fields")
            key, at = self.varint(at, end)
            field, wire = key >> 3, key & 7
            start = at
            if wire == _LENGTH:
                size, start = self.varint(at, end)
                at = start + size
            elif wire == _VARINT:
                _, at = self.varint(at, end)
            elif wire in (_FIXED32, _FIXED64):
                at += 4 if wire == _FIXED32 else 8
            else:
                raise NotAModelError("expected an ONNX file")
            if at > end or field == 0:
                raise NotAModelError("expected an ONNX file")
            yield field, wire, start, at

    def messages(self, at: int, end: int, number: int) -> list[tuple[int, int]]:
        """Return the ranges of the messages that are field `number` of another."""
        return [
            (start, to)
            for field, wire, start, to in self.fields(at, end)
            if field == number and wire == _LENGTH
        ]

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at `at` and the place after it."""
        value = 0
        for position, byte in enumerate(self._data[at : min(at + 10, end)]):
            value |= (byte & 0x7F) << 7 * position
            if byte < 0x80:
                return value, at + position + 1
        raise NotAModelError("expected an ONNX file")

    def varints(self, at: int, end: int) -> list[int]:
        """Return the numbers of a packed field, not many more than a shape can have."""
        values: list[int] = []
        while at < end and len(values) <= MAX_RANK:
            value, at = self.varint(at, end)
            values.append(value)
        return values

    def text(self, at: int, end: int) -> str:
        """Return a string, cut to a sensible length."""
        return bytes(self._data[at : min(end, at + _MAX_NAME)]).decode("utf-8", "replace")
