"""Computes what a float TFLite model makes of constants alone, such as a resize's weights.

Integers would lose precision in it, and quantisers leave its operators in float. Left alone:
results much larger than what they are made from, and operators whose results are no tensors.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_runtime.session import Array, load_session

_GROWTH = 4
_SMALL = 65_536  # elements; growing to less than this is always worth it
_RANDOM = frozenset(("BERNOULLI", "MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM"))
_TYPES = ("bool", "float32", "int8", "int32", "int64", "uint8")


def with_constants_folded(payload: bytes) -> bytes:
    """Return the model with what follows from constants computed; the same bytes if there is none.

    Args:
        payload: a float TFLite model whose tensors have unique names.
    """
    model = tflite.parse(payload, "the float model")
    graph = model.subgraphs[0]
    known = _known(model)
    if not known:
        return payload
    ends = _ends(graph, known)
    for index, values in _computed(payload, known, ends).items():
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.tensors[index].buffer = len(model.buffers) - 1
    graph.operators = [one for n, one in enumerate(graph.operators) if n not in known]
    return tflite.serialise(model)


def _known(model: tflite.Flatbuffer) -> frozenset[int]:
    """Return the numbers of the operators that depend on constants alone."""
    graph, found, made = model.subgraphs[0], set(), set()
    outputs = {int(index) for index in graph.outputs}
    for number, operator in enumerate(graph.operators):
        read, results = tflite.given(operator.inputs), tflite.given(operator.outputs)
        constant = all(i in made or tflite.is_constant(model, graph.tensors[i]) for i in read)
        if not read or not constant or outputs & {*results}:
            continue
        if tflite.op_name(model, operator) in _RANDOM or not _is_plain(graph, read, results):
            continue
        found.add(number)
        made |= {*results}
    return frozenset(found)


def _is_plain(graph: Any, read: list[int], made: list[int]) -> bool:
    """Return whether an operator makes tensors of numbers, and not too large ones."""
    tensors = [graph.tensors[index] for index in made]
    if any(tflite.type_name(one) not in _TYPES or one.shape is None for one in tensors):
        return False
    before, after = (sum(_size(graph.tensors[i]) for i in some) for some in (read, made))
    return 0 < after <= max(_GROWTH * before, _SMALL)


def _size(tensor: Any) -> int:
    return 1 if tensor.shape is None else int(np.prod(tensor.shape))


def _ends(graph: Any, known: frozenset[int]) -> tuple[int, ...]:
    """Return the tensors that known operators make and others read."""
    made = {i for n in known for i in tflite.given(graph.operators[n].outputs)}
    others = [one for n, one in enumerate(graph.operators) if n not in known]
    return tuple(sorted(made & {i for one in others for i in tflite.given(one.inputs)}))


def _computed(payload: bytes, known: frozenset[int], ends: tuple[int, ...]) -> dict[int, Array]:
    """Return the values of `ends`, by running the known operators alone."""
    part = tflite.parse(payload, "the float model")
    graph = part.subgraphs[0]
    graph.operators = [graph.operators[number] for number in sorted(known)]
    graph.inputs, graph.outputs = np.array([], np.int32), np.array(ends, np.int32)
    part.signatureDefs = None
    session = load_session(tflite.serialise(part), "litert", optimise=False)
    try:
        made = session.run({})
    finally:
        session.close()
    return {index: made[tflite.tensor_name(graph.tensors[index])] for index in ends}
