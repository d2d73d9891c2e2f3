"""TFLite files as objects: read with every index checked, named, written the same every time."""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from edgec_compiler.errors import ModelFileError
from edgec_compiler.importers.tflite_bounds import check_bounds

_OP_NAMES: dict[int, str] = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)
}
_TYPE_NAMES: dict[int, str] = {
    value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)
}
Flatbuffer = Any  # schema.ModelT: generated code without types


def parse(payload: bytes, origin: str) -> Flatbuffer:
    """Return the model object in the bytes of a TFLite file.

    Raises:
        ModelFileError: damaged, or with an index that leads nowhere.
    """
    try:
        check_bounds(payload)
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(payload))
        _check(model)
        for buffer in model.buffers:
            if isinstance(buffer.data, bytes | bytearray):  # behind the flatbuffer, or not
                buffer.data = np.frombuffer(buffer.data, np.uint8)
    except (ValueError, IndexError, TypeError, struct.error, AttributeError, MemoryError) as error:
        raise ModelFileError(f"{origin}: a damaged TFLite file") from error
    return model


def serialise(model: Flatbuffer) -> bytes:
    """Return the bytes of a model object; equal objects give equal bytes."""
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _check(model: Flatbuffer) -> None:
    if not model.subgraphs or not model.buffers:
        raise ValueError("no subgraph")
    for graph in model.subgraphs:
        count = len(graph.tensors)
        if any(not 0 <= tensor.buffer < len(model.buffers) for tensor in graph.tensors):
            raise ValueError("buffer")
        ends = [graph.inputs, graph.outputs]
        for operator in graph.operators:
            if not 0 <= operator.opcodeIndex < len(model.operatorCodes):
                raise ValueError("operator code")
            ends += [given(operator.inputs), given(operator.outputs)]
        if any(not 0 <= index < count for indices in ends for index in given(indices)):
            raise ValueError("tensor")


def given(indices: Sequence[int] | None) -> list[int]:
    """Return tensor indices without the -1 of left-out optional inputs."""
    return [int(index) for index in ([] if indices is None else indices) if index != -1]


def op_name(model: Flatbuffer, operator: Any) -> str:
    """Return an operator's name as TFLite writes it: "CONV_2D", or a custom operator's own."""
    code = model.operatorCodes[operator.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if builtin == schema.BuiltinOperator.CUSTOM and code.customCode:
        return bytes(code.customCode).decode("utf-8", "replace")
    return _OP_NAMES.get(builtin, str(builtin))


def tensor_name(tensor: Any) -> str:
    """Return a tensor's name, or an empty string."""
    return bytes(tensor.name or b"").decode("utf-8", "replace")


def type_name(tensor: Any) -> str:
    """Return a tensor's element type, as numpy calls it: "float32", "int8"."""
    return _TYPE_NAMES.get(tensor.type, str(tensor.type))


def quantisation(tensor: Any) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return a tensor's scales and zero points; empty ones if it is not quantised."""
    found = tensor.quantization
    if found is None:
        return (), ()
    scales = () if found.scale is None else tuple(float(value) for value in found.scale)
    zeros = () if found.zeroPoint is None else tuple(int(value) for value in found.zeroPoint)
    return scales, zeros


def operator_code(model: Flatbuffer, builtin: int, version: int) -> int:
    """Return the number of an operator code of at least `version`, added if it is not there."""
    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin and code.version >= version:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = min(builtin, 127)
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def add_integers(model: Flatbuffer, values: np.ndarray[Any, Any]) -> int:
    """Add a constant of integers to the main graph; return the tensor's number."""
    graph = model.subgraphs[0]
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name = f"edgec_constant_{len(graph.tensors)}".encode()
    tensor.shape = np.array(values.shape, np.int32)
    tensor.type = schema.TensorType.INT32
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def live_operators(graph: Any) -> list[Any]:
    """Return the operators of a subgraph that its outputs depend on, in their order."""
    read, kept = {int(index) for index in graph.outputs}, []
    for operator in reversed(graph.operators):
        if read & set(given(operator.outputs)):
            read |= set(given(operator.inputs))
            kept.append(operator)
    return kept[::-1]


def is_constant(model: Flatbuffer, tensor: Any) -> bool:
    """Return whether a tensor's values are in the file."""
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def constant_names(model: Flatbuffer) -> frozenset[str]:
    """Return the names of all tensors whose values are in the file."""
    return frozenset(
        tensor_name(tensor)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if is_constant(model, tensor)
    )
