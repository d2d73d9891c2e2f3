"""A TFLite file whose weights are stored narrow, as the float model that it stands for.

Dynamic-range quantisation stores weights as int8 and computes in float; weight-only and
half-precision files put a DEQUANTIZE behind stored constants. Neither has to stay so: a
full-integer target needs the float model, to learn the ranges of activations from.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite

_STORED = {"int8": np.int8, "uint8": np.uint8, "float16": np.float16}
_FLOAT32 = schema.TensorType.FLOAT32


def as_float(payload: bytes) -> bytes:
    """Return the model with its stored constants as float32; the same bytes if nothing is narrow.

    Files of old converters number their operators in a field of 8 bits only, which quantisers
    overlook; both fields are filled. Others give tensors without values an empty buffer, or the
    file no list of signatures. Values that no tensor has are left out.
    """
    model = tflite.parse(payload, "the source model")
    changed = _renumber(model) | _without_empty_buffers(model) | _with_signatures(model)
    for graph in model.subgraphs:
        for operator in list(graph.operators):
            if tflite.op_name(model, operator) == "DEQUANTIZE":
                changed |= _unfold(model, graph, operator)
            elif _is_float(graph, operator):
                for index in operator.inputs:
                    changed |= index != -1 and _widen(model, graph.tensors[index])
    changed |= _without_lost_values(model)
    return tflite.serialise(model) if changed else payload


def _renumber(model: tflite.Flatbuffer) -> bool:
    old = [code for code in model.operatorCodes if code.builtinCode < code.deprecatedBuiltinCode]
    for code in old:
        code.builtinCode = code.deprecatedBuiltinCode
    return bool(old)


def _without_empty_buffers(model: tflite.Flatbuffer) -> bool:
    """Let tensors without values refer to buffer 0, as quantisers expect them to."""
    changed = False
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if tensor.buffer and data is not None and not len(data):
                tensor.buffer, changed = 0, True
    return changed


def _without_lost_values(model: tflite.Flatbuffer) -> bool:
    """Empty the buffers that no tensor has any more: the narrow values of what was widened."""
    held = {tensor.buffer for graph in model.subgraphs for tensor in graph.tensors}
    held |= {0, *(one.buffer for one in model.metadata or ())}
    lost = [b for i, b in enumerate(model.buffers) if i not in held and b.data is not None]
    for buffer in lost:
        buffer.data = None
    return bool(lost)


def _with_signatures(model: tflite.Flatbuffer) -> bool:
    """Have a list of signatures, if an empty one: quantisers fail without."""
    lacking = model.signatureDefs is None
    model.signatureDefs = model.signatureDefs or []
    return lacking


def _is_float(graph: Any, operator: Any) -> bool:
    made = [graph.tensors[index] for index in operator.outputs if index != -1]
    return bool(made) and all(tensor.type == _FLOAT32 for tensor in made)


def _unfold(model: tflite.Flatbuffer, graph: Any, operator: Any) -> bool:
    """Take a DEQUANTIZE of a constant out of the graph."""
    source, target = int(operator.inputs[0]), int(operator.outputs[0])
    if not _widen(model, graph.tensors[source]):
        return False
    graph.operators.remove(operator)
    for other in graph.operators:
        if other.inputs is not None:
            other.inputs = [source if index == target else int(index) for index in other.inputs]
    graph.outputs = [source if index == target else int(index) for index in graph.outputs]
    return True


def _widen(model: tflite.Flatbuffer, tensor: Any) -> bool:
    """Store a narrow constant as float32; return whether it was one."""
    stored = _STORED.get(tflite.type_name(tensor))
    data = model.buffers[tensor.buffer].data
    scales = tensor.quantization.scale if tensor.quantization is not None else None
    if stored is None or data is None or not len(data):
        return False
    if stored is not np.float16 and (scales is None or not len(scales)):
        return False
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    values = np.frombuffer(bytes(data), stored).astype(np.float32).reshape(shape)
    if stored is not np.float16:
        values = _real(values, tensor.quantization)
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.astype("<f4").tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1
    tensor.type = _FLOAT32
    tensor.quantization = None
    return True


def _real(values: Any, quantisation: Any) -> Any:
    """Return what stored integers stand for: scale * (q - zero point), or so per channel."""
    scales = np.array(quantisation.scale, np.float32)
    zeros = np.array(quantisation.zeroPoint, np.float32)
    if len(scales) > 1:
        shape = [1] * values.ndim
        shape[quantisation.quantizedDimension] = len(scales)
        scales, zeros = scales.reshape(shape), zeros.reshape(shape)
    return (values - zeros) * scales
