"""SQUEEZE and EXPAND_DIMS of a float TFLite file as RESHAPE, which they are where shapes are fixed.

Quantisers and accelerators know RESHAPE; the others they leave in float, and a target that executes
integers only would have to refuse a model for moving nothing at all.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite

_SHAPING = ("EXPAND_DIMS", "SQUEEZE")


def with_reshapes(payload: bytes) -> bytes:
    """Return the model with RESHAPE instead; the same bytes if there is nothing to do."""
    model = tflite.parse(payload, "the source model")
    graph = model.subgraphs[0]
    found = [
        operator
        for operator in graph.operators
        if tflite.op_name(model, operator) in _SHAPING and _is_fixed(graph, operator)
    ]
    for operator in found:
        _replace(model, graph, operator)
    return tflite.serialise(model) if found else payload


def _is_fixed(graph: Any, operator: Any) -> bool:
    """Return whether the file tells the sizes of the result, and they hold what comes in."""
    before, after = (graph.tensors[int(i)] for i in (operator.inputs[0], operator.outputs[0]))
    sizes = [[int(n) for n in tflite.given(one.shape)] for one in (before, after)]
    return all(n > 0 for n in sizes[1]) and np.prod(sizes[0]) == np.prod(sizes[1])


def _replace(model: tflite.Flatbuffer, graph: Any, operator: Any) -> None:
    result = graph.tensors[int(operator.outputs[0])]
    make_reshape(model, graph, operator, [int(n) for n in tflite.given(result.shape)])


def make_reshape(model: tflite.Flatbuffer, graph: Any, operator: Any, shape: list[int]) -> None:
    """Make `operator` a RESHAPE of its first input to `shape`, in place."""
    sizes = np.array(shape, np.int32)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(sizes.tobytes(), np.uint8)
    model.buffers.append(buffer)
    constant = schema.TensorT()
    constant.name = b"shape%d" % len(graph.tensors)
    constant.type, constant.shape = schema.TensorType.INT32, np.array([len(shape)], np.int32)
    constant.buffer = len(model.buffers) - 1
    graph.tensors.append(constant)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.RESHAPE
    code.version = 1
    model.operatorCodes.append(code)
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs = [int(operator.inputs[0]), len(graph.tensors) - 1]
    operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    operator.builtinOptions = schema.ReshapeOptionsT()
    operator.builtinOptions.newShape = sizes
