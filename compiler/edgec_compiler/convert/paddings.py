"""Paddings in the form that older readers of TFLite files take; the values stay what they were.

1. Paddings of 64 bits become 32-bit ones: the Edge TPU's compiler reads the first as the second,
   and so pads another axis.
2. A PADV2 whose value is the zero point of its tensors becomes a PAD, which pads with just that.

Left alone: paddings that are no constant or too large, and other values.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite

_PADS = ("PAD", "PADV2", "MIRROR_PAD")
_LARGEST = 2**31 - 1


def narrow_paddings(model: tflite.Flatbuffer) -> list[str]:
    """Rewrite 1 in place; return what was done, one line per operator."""
    told = []
    for graph in model.subgraphs:
        for index, operator in enumerate(graph.operators):
            if tflite.op_name(model, operator) not in _PADS:
                continue
            tensor = graph.tensors[operator.inputs[1]]
            if tensor.type != schema.TensorType.INT64 or not tflite.is_constant(model, tensor):
                continue
            wide = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.int64)
            if wide.size and int(np.abs(wide).max()) > _LARGEST:
                continue
            tensor.buffer = _buffer(model, wide.astype(np.int32))
            tensor.type = schema.TensorType.INT32
            told.append(f"operator {index}: its 64-bit paddings became 32-bit ones")
    return told


def pad_with_zero_point(model: tflite.Flatbuffer) -> list[str]:
    """Rewrite 2 in place; return what was done, one line per operator."""
    told = []
    for graph in model.subgraphs:
        for index, operator in enumerate(graph.operators):
            if tflite.op_name(model, operator) != "PADV2" or not _pads_zero(model, graph, operator):
                continue
            operator.opcodeIndex = tflite.operator_code(model, schema.BuiltinOperator.PAD, 2)
            operator.inputs = operator.inputs[:2]
            operator.builtinOptionsType = schema.BuiltinOptions.PadOptions
            operator.builtinOptions = schema.PadOptionsT()
            told.append(f"operator {index}: PADV2 with the zero point became PAD")
    return told


def _pads_zero(model: tflite.Flatbuffer, graph: Any, operator: Any) -> bool:
    old, value, new = (graph.tensors[i] for i in (*operator.inputs[::2], operator.outputs[0]))
    kind = tflite.type_name(old)
    if kind not in ("int8", "uint8") or not tflite.is_constant(model, value):
        return False
    known = tflite.quantisation(old)
    if len(known[1]) != 1 or tflite.quantisation(new) != known:
        return False
    padded = np.frombuffer(bytes(model.buffers[value.buffer].data), kind)
    return padded.size == 1 and int(padded[0]) == known[1][0]


def _buffer(model: tflite.Flatbuffer, values: np.ndarray[Any, Any]) -> int:
    """Add the values as a buffer of their own: another tensor may read the old one."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1
