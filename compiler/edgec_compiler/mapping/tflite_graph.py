"""Reads a TFLite file into a `ModelGraph`, field by field, within bounds.

No native code sees the file here: a hostile one is refused or checked, and crashes nothing.

Source: tensorflow/lite/schema/schema.fbs, version 3a.
"""

import struct
from collections.abc import Mapping, Sequence
from functools import cache

from edgec_compiler.errors import ModelFileError
from edgec_compiler.mapping.flatbuffer import Flatbuffer, FlatbufferError
from edgec_compiler.mapping.graph import Fact, ModelGraph, Operator, Tensor
from edgec_compiler.mapping.tflite_facts import OPTIONS, Option, facts_of

_CUSTOM = 32
_MAX_VALUES = 1 << 16  # of a constant whose values are looked at


def read_tflite(payload: bytes, origin: str) -> ModelGraph:
    """Return the main graph in the bytes of a TFLite file.

    Raises:
        ModelFileError: damaged, hostile, or without a graph.
    """
    try:
        return _Reader(Flatbuffer(payload, b"TFL3")).graph()
    except (FlatbufferError, struct.error) as error:
        raise ModelFileError(f"{origin}: a damaged TFLite file: {error}") from error


@cache
def _names() -> tuple[Mapping[int, str], Mapping[int, str]]:
    """Return the names of operators and of element types, by their numbers in the schema."""
    from ai_edge_litert import schema_py_generated as schema

    return (
        {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)},
        {v: k.lower() for k, v in vars(schema.TensorType).items() if isinstance(v, int)},
    )


class _Reader:
    def __init__(self, file: Flatbuffer) -> None:
        self._file = file
        self._operator_names, self._type_names = _names()
        self._builtins = frozenset(self._operator_names.values()) - {"CUSTOM"}
        root = file.root()
        self._codes = [self._code(table) for table in file.tables(root, 1)]
        self._graphs = file.tables(root, 2)
        self._buffers = file.tables(root, 4)
        self._read: dict[int, tuple[int, ...]] = {}

    def graph(self) -> ModelGraph:
        if not self._graphs:
            raise FlatbufferError("no subgraph")
        file, graph = self._file, self._graphs[0]
        tables = file.tables(graph, 0)
        tensors = tuple(self._tensor(table) for table in tables)
        self._tensor_tables = tables
        inputs, outputs = (file.integers(graph, field) or () for field in (1, 2))
        operators = file.tables(graph, 3)
        made = tuple(self._operator(i, table, tensors) for i, table in enumerate(operators))
        return ModelGraph(
            "tflite", tensors, made, _indices(inputs, tensors), _indices(outputs, tensors)
        )

    def _code(self, table: int) -> tuple[str, int]:
        file = self._file
        builtin = max(file.integer(table, 0, "<b", 0), file.integer(table, 3, "<i", 0))
        custom = file.text(table, 1)
        name = custom if builtin == _CUSTOM and custom else self._operator_names.get(builtin)
        return name or str(builtin), file.integer(table, 2, "<i", 1)

    def _tensor(self, table: int) -> Tensor:
        file = self._file
        kind = file.integer(table, 1, "<b", 0)
        return Tensor(
            name=file.text(table, 3),
            dtype=self._type_names.get(kind, str(kind)),
            shape=file.integers(table, 0) or (),
            constant=self._has_data(table),
        )

    def _buffer(self, tensor: int) -> int | None:
        number = self._file.integer(tensor, 2, "<I", 0)
        if number >= len(self._buffers):
            raise FlatbufferError("a tensor's buffer is not there")
        return self._buffers[number] if number else None

    def _has_data(self, tensor: int) -> bool:
        buffer = self._buffer(tensor)
        if buffer is None:
            return False
        file = self._file
        return not file.is_empty(buffer, 0) or file.integer(buffer, 2, "<Q", 0) > 0

    def _data(self, tensor: int) -> bytes:
        buffer = self._buffer(tensor)
        if buffer is None:
            return b""
        data = self._file.content(buffer, 0)
        if data:
            return data
        size = self._file.integer(buffer, 2, "<Q", 0)
        return self._file.span(self._file.integer(buffer, 1, "<Q", 0), size) if size else b""

    def _operator(self, index: int, table: int, tensors: tuple[Tensor, ...]) -> Operator:
        file = self._file
        code = file.integer(table, 0, "<I", 0)
        if code >= len(self._codes):
            raise FlatbufferError("an operator's code is not there")
        name, version = self._codes[code]
        slots = file.integers(table, 1) or ()
        inputs = _indices(slots, tensors)
        outputs = _indices(file.integers(table, 2) or (), tensors)
        options = self._options(name, file.table(table, 4))
        values = {i: self._values(tensors[slots[i]], slots[i]) for i in _small(slots, tensors)}
        given = tuple(tensors[i] if i >= 0 else None for i in slots)
        made = tuple(tensors[i] for i in outputs)
        facts = facts_of(name, version, given, made, options, values)
        facts["custom"] = name not in self._builtins
        return Operator(index, name, version, inputs, outputs, facts)

    def _options(self, op: str, table: int | None) -> dict[str, Fact]:
        return {option.fact: self._option(option, table) for option in OPTIONS.get(op, ())}

    def _option(self, option: Option, table: int | None) -> Fact:
        if option.form == "?":
            return self._file.boolean(table, option.field)
        number = self._file.integer(table, option.field, option.form, option.default)
        return option.words[number] if 0 <= number < len(option.words) else number

    def _values(self, tensor: Tensor, index: int) -> tuple[int, ...]:
        """Return the values of a small constant of integers; all zero or not is enough for others.

        A constant that is no list of 32- or 64-bit integers gives its bytes. Each is read once: the
        weights of a recurrent layer that is written out belong to hundreds of operators.
        """
        if index not in self._read:
            self._read[index] = self._unpacked(tensor, index)
        return self._read[index]

    def _unpacked(self, tensor: Tensor, index: int) -> tuple[int, ...]:
        data = self._data(self._tensor_tables[index])
        form = {"int32": "i", "int64": "q"}.get(tensor.dtype, "B")
        count = len(data) // struct.calcsize(f"<{form}")
        return struct.unpack_from(f"<{count}{form}", data)


def _small(slots: Sequence[int], tensors: Sequence[Tensor]) -> list[int]:
    """Return the places of the inputs that are constants small enough to be looked at."""
    return [
        place
        for place, i in enumerate(slots)
        if i >= 0 and tensors[i].constant and tensors[i].elements <= _MAX_VALUES
    ]


def _indices(numbers: Sequence[int], tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return tensor numbers without the -1 of inputs that are left out."""
    if any(not -1 <= number < len(tensors) for number in numbers):
        raise FlatbufferError("a tensor is not there")
    return tuple(number for number in numbers if number != -1)
