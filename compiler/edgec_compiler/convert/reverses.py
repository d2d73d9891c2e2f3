"""Reversals of a float TFLite model that cost nothing, as unrolled backward layers have them.

1. SLICEs of one place each of what is reversed read the place from the other end.
2. The reversal of a CONCATENATION of single places joins them in the other order.

Left alone: several axes at once, longer slices, and other readers; `write_out.py` writes these out
for targets without the operator.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite


def without_reverses(payload: bytes) -> bytes:
    """Return the model without such REVERSE_V2; the same bytes if there are none.

    Args:
        payload: a float TFLite model.
    """
    model = tflite.parse(payload, "the float model")
    graph = model.subgraphs[0]
    found = [one for one in graph.operators if tflite.op_name(model, one) == "REVERSE_V2"]
    done = [one for one in found if _joined(model, one) or _sliced(model, one)]
    if not done:
        return payload
    graph.operators = [one for one in graph.operators if all(one is not other for other in done)]
    graph.operators = tflite.live_operators(graph)  # what was joined the other way round may go
    return tflite.serialise(model)


def reversed_axis(model: tflite.Flatbuffer, operator: Any) -> tuple[int, int] | None:
    """Return the axis that a REVERSE_V2 reverses and its length, None for several axes."""
    shape = [int(size) for size in model.subgraphs[0].tensors[operator.inputs[0]].shape]
    axes = integers(model, int(operator.inputs[1]))
    return (axes[0] % len(shape), shape[axes[0]]) if len(axes) == 1 else None


def integers(model: tflite.Flatbuffer, index: int) -> list[int]:
    """Return a constant of 32-bit integers, an empty list if it is none."""
    tensor = model.subgraphs[0].tensors[index]
    if tflite.type_name(tensor) != "int32" or not tflite.is_constant(model, tensor):
        return []
    return [int(n) for n in np.frombuffer(bytes(model.buffers[tensor.buffer].data), "<i4")]


def _joined(model: tflite.Flatbuffer, operator: Any) -> bool:
    """Rewrite 2 in place, also behind a RESHAPE. Return whether it could."""
    graph, known = model.subgraphs[0], reversed_axis(model, operator)
    x, y = int(operator.inputs[0]), int(operator.outputs[0])
    maker, reshape = _maker(graph, x), None
    if maker is not None and tflite.op_name(model, maker) == "RESHAPE":
        reshape, x = maker, int(maker.inputs[0])
        maker = _maker(graph, x)
    if maker is None or known is None or tflite.op_name(model, maker) != "CONCATENATION":
        return False
    outer = None if reshape is None else [int(n) for n in graph.tensors[y].shape][: known[0]]
    if not _joins_places(graph, maker, known, outer):
        return False
    made = y
    place = next(i for i, one in enumerate(graph.operators) if one is operator)
    if reshape is not None:
        made = len(graph.tensors)
        graph.tensors.append(_like(graph.tensors[x], made))
        graph.operators.insert(place, _copy(reshape, [made, *reshape.inputs[1:]], y))
    graph.operators.insert(place, _copy(maker, maker.inputs[::-1], made))
    return True


def _maker(graph: Any, index: int) -> Any:
    """Return the operator that makes a tensor, None if none does."""
    return next((one for one in graph.operators if index in tflite.given(one.outputs)), None)


def _joins_places(
    graph: Any, operator: Any, known: tuple[int, int], outer: list[int] | None
) -> bool:
    """Return whether the parts of a CONCATENATION are the places of an axis.

    Args:
        graph: it belongs to.
        operator: the CONCATENATION.
        known: the axis of what is reversed, and its length.
        outer: the sizes before that axis, if a reshape lies between.
    """
    parts = [[int(n) for n in graph.tensors[index].shape] for index in operator.inputs]
    axis = operator.builtinOptions.axis % len(parts[0])
    if operator.builtinOptions.fusedActivationFunction or any(part != parts[0] for part in parts):
        return False
    if outer is None:
        aligned = axis == known[0]
    else:  # where all before is 1, parts and places are as many stretches of the same memory
        aligned = all(size == 1 for size in (*parts[0][:axis], *outer))
    return aligned and len(parts) == known[1]


def _copy(operator: Any, inputs: Any, output: int) -> Any:
    """Return an operator of the same kind with other ends."""
    made = schema.OperatorT()
    made.opcodeIndex = operator.opcodeIndex
    made.builtinOptionsType = operator.builtinOptionsType
    made.builtinOptions = operator.builtinOptions
    made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
    return made


def _like(tensor: Any, number: int) -> Any:
    made = schema.TensorT()
    made.name = f"t{number}_turned".encode()
    made.shape, made.type, made.buffer = tensor.shape, tensor.type, 0
    return made


def _sliced(model: tflite.Flatbuffer, operator: Any) -> bool:
    """Rewrite 1 in place. Return whether it could."""
    graph, known = model.subgraphs[0], reversed_axis(model, operator)
    x, y = int(operator.inputs[0]), int(operator.outputs[0])
    readers = [one for one in graph.operators if y in tflite.given(one.inputs)]
    if known is None or y in map(int, graph.outputs) or not readers:
        return False
    axis, length = known
    places = []
    for reader in readers:
        if tflite.op_name(model, reader) != "SLICE" or int(reader.inputs[0]) != y:
            return False
        begin, size = (integers(model, int(index)) for index in reader.inputs[1:3])
        if not begin or not size or size[axis] != 1:
            return False
        places.append([*begin[:axis], length - 1 - begin[axis], *begin[axis + 1 :]])
    for reader, begin in zip(readers, places, strict=True):
        start = tflite.add_integers(model, np.array(begin, np.int32))
        reader.inputs = np.array([x, start, reader.inputs[2]], np.int32)
    return True
