"""Builds small TFLite files operator by operator, with the schema's own writer."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("EDGEC_TEST_DATA", ROOT.parent / "shared" / "data"))
TYPES = {
    "bool": schema.TensorType.BOOL,
    "float16": schema.TensorType.FLOAT16,
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64,
    "int4": schema.TensorType.INT4,
}


class Network:
    """A model under construction; tensors are known by their numbers."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = b"test"
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.model.subgraphs = [self.graph]

    def tensor(
        self,
        name: str,
        shape: list[int],
        dtype: str = "int8",
        values: Any = None,
        scale: float | None = 0.5,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name = name.encode()
        tensor.shape = np.array(shape, np.int32)
        tensor.type = TYPES[dtype]
        tensor.buffer = 0
        if scale is not None and dtype in ("int8", "uint8"):
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([scale], np.float32)
            tensor.quantization.zeroPoint = np.array([0], np.int64)
        if values is not None:
            buffer = schema.BufferT()
            stored = "uint8" if dtype == "int4" else dtype
            buffer.data = np.frombuffer(np.asarray(values, stored).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def input(self, shape: list[int], dtype: str = "int8", name: str = "in") -> int:
        index = self.tensor(name, shape, dtype)
        self.graph.inputs.append(index)
        return index

    def op(
        self,
        kind: str,
        inputs: list[int],
        output: int | list[int],
        options: Any = None,
        version: int = 1,
    ) -> int:
        """Add an operator; options are a table of the schema such as `schema.AddOptionsT()`."""
        builtin = getattr(schema.BuiltinOperator, kind, None)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code(kind, builtin, version)
        operator.inputs = inputs
        operator.outputs = output if isinstance(output, list) else [output]
        if options is not None:
            operator.builtinOptions = options
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
        self.graph.operators.append(operator)
        return operator.outputs[0]

    def _code(self, kind: str, builtin: int | None, version: int) -> int:
        code = schema.OperatorCodeT()
        code.version = version
        if builtin is None:
            code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
            code.customCode = kind.encode()
        else:
            code.builtinCode, code.deprecatedBuiltinCode = builtin, min(builtin, 127)
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def bytes(self, *outputs: int) -> bytes:
        self.graph.outputs = list(outputs)
        return tflite.serialise(self.model)


def options(kind: str, **fields: Any) -> Any:
    """Return an options table: options("Conv2D", strideW=2)."""
    table = getattr(schema, f"{kind}OptionsT")()
    for field, value in fields.items():
        setattr(table, field, value)
    return table


def relu(network: Network, source: int, name: str, shape: list[int]) -> int:
    return network.op("RELU", [source], network.tensor(name, shape))


def one(kind: str, shape: list[int], out: list[int], **made: Any) -> bytes:
    """Return a model of one operator; see `add_one`."""
    network = Network()
    return network.bytes(add_one(network, kind, shape, out, **made))


def add_one(network: Network, kind: str, shape: list[int], out: list[int], **made: Any) -> int:
    """Add an input, constants (`more`) and an operator that reads them; return its output."""
    name = made.get("name", "out")
    source = network.input(
        shape, made.get("reads", "int8"), "in" if name == "out" else f"{name}.in"
    )
    more = enumerate(made.get("more", []))
    constants = [network.tensor(f"{name}.k{i}", **given) for i, given in more]
    result = network.tensor(name, out, made.get("dtype", "int8"))
    inputs = [*constants, source] if made.get("last") else [source, *constants]
    return network.op(kind, inputs, result, made.get("options"), made.get("version", 1))


def ints(values: list[int]) -> dict[str, Any]:
    return {"shape": [len(values)], "dtype": "int32", "values": values}


def pads(both: list[int]) -> dict[str, Any]:
    return {"shape": [len(both), 2], "dtype": "int32", "values": [[n, n] for n in both]}


def filled(value: int) -> dict[str, Any]:
    return {"shape": [1, 8, 8, 4], "values": np.full((1, 8, 8, 4), value)}
