"""Answers what a float TFLite model asks of infinities, which integers do not have.

A constant of infinities would get an infinite scale. EQUAL to one is false, NOT_EQUAL true, as in
the log-sum-exp that converters write out; a SELECT by the answer is what it picks. Left alone:
other comparisons, and a SELECT that widens what it picks or makes an output of the model.
"""

from typing import Any

import numpy as np

from edgec_compiler import tflite

_ANSWERS = {"EQUAL": False, "NOT_EQUAL": True}


def without_infinities(payload: bytes) -> bytes:
    """Return the model without such SELECTs; the same bytes if there are none.

    Args:
        payload: a float TFLite model.
    """
    model = tflite.parse(payload, "the float model")
    graph = model.subgraphs[0]
    outputs = {int(index) for index in graph.outputs}
    answers: dict[int, bool] = {}
    picked: dict[int, int] = {}
    for operator in graph.operators:
        operator.inputs = _replaced(operator.inputs, picked)
        op = tflite.op_name(model, operator)
        if op in _ANSWERS and any(_is_infinite(model, int(i)) for i in operator.inputs):
            answers[int(operator.outputs[0])] = _ANSWERS[op]
        elif op in ("SELECT", "SELECT_V2") and int(operator.inputs[0]) in answers:
            asked, yes, no = map(int, operator.inputs)
            made, one = int(operator.outputs[0]), yes if answers[asked] else no
            if made not in outputs and _shape(graph, one) == _shape(graph, made):
                picked[made] = one
    if not picked:
        return payload
    graph.operators = tflite.live_operators(graph)
    return tflite.serialise(model)


def _replaced(indices: Any, picked: dict[int, int]) -> Any:
    given = [] if indices is None else indices
    return np.array([picked.get(int(index), int(index)) for index in given], np.int32)


def _is_infinite(model: tflite.Flatbuffer, index: int) -> bool:
    tensor = model.subgraphs[0].tensors[index]
    if tflite.type_name(tensor) != "float32" or not tflite.is_constant(model, tensor):
        return False
    values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), "<f4")
    return bool(np.isinf(values).all())


def _shape(graph: Any, index: int) -> list[int]:
    shape = graph.tensors[index].shape
    return [] if shape is None else [int(size) for size in shape]
