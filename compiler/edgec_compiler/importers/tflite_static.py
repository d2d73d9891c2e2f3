"""What a TFLite file computes from its tensors' shapes alone, as constants.

TensorFlow writes sizes that a batch axis of -1 leaves open as chains of operators (SHAPE,
STRIDED_SLICE, PACK) that end in a RESHAPE or a TILE. Where all shapes are fixed, so is what these
chains give; accelerators' compilers would leave them on the CPU, or crash on their scalars.

Folded: operators that move, count or compute integers (`_PURE`), whose inputs are constants or
folded themselves, and SHAPE and RANK of tensors whose shapes no value decides. Left alone: what
makes an output of the model or is dequantised (XNNPACK takes a DEQUANTIZE of a constant for one of
a weight, and never writes its result), and what would be larger than the constants it comes from.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_compiler.mapping.proof import prove
from edgec_compiler.quantise.activations import keeping_interpreter

_SIZES = ("RANK", "SHAPE")
_PURE = {
    *("ADD", "BROADCAST_TO", "CAST", "CONCATENATION", "EQUAL", "EXPAND_DIMS", "FILL"),
    *("FLOOR_DIV", "FLOOR_MOD", "GATHER", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"),
    *("LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR", "MAXIMUM", "MINIMUM", "MUL", "NEG"),
    *("NOT_EQUAL", "PACK", "RANGE", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RESHAPE"),
    *("SELECT", "SELECT_V2", "SLICE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TILE"),
    "TRANSPOSE",
}
# Operators whose results' shapes depend on what they read beyond its shape, whatever its type.
_OF_VALUES = {
    *("CALL", "CALL_ONCE", "CUSTOM", "DENSIFY", "IF", "NON_MAX_SUPPRESSION_V4"),
    *("NON_MAX_SUPPRESSION_V5", "READ_VARIABLE", "UNIQUE", "WHERE", "WHILE"),
}
# Operators that read integers as values, and shapes only of shapes.
_OF_SHAPES = {"ABS", "ADD", "CAST", "EMBEDDING_LOOKUP", "GATHER", "GATHER_ND", "MUL", "NEG", "SUB"}
_WHOLE = ("bool", "int32", "int64")
_SMALL = 1024  # bytes that a constant may always have: no shape comes near it


def fold_static(model: tflite.Flatbuffer) -> tuple[str, ...]:
    """Fold in place what shapes alone decide; return a note, or none if there was nothing.

    Pre: one subgraph that the runtime executes, its inputs' shapes fixed. Post: all outputs are bit
    for bit what they were, else nothing is changed.
    """
    graph = model.subgraphs[0]
    fixed, loose = _fixed(model, graph)
    if not any(tflite.op_name(model, operator) in _SIZES for operator in fixed):
        return ()
    before = tflite.serialise(model)
    values, shapes = _run(before, fixed)
    candidate = tflite.parse(before, "the model")
    numbers = {graph.operators.index(operator) for operator in fixed}
    done = _fold(candidate, numbers, values)
    if not done:
        return ()
    plain = tflite.parse(before, "the model")
    for one in (plain, candidate):
        _tell_shapes(one, {i: shape for i, shape in shapes.items() if i not in loose})
    if not prove(tflite.serialise(plain), tflite.serialise(candidate)).equal:
        return ()
    model.subgraphs, model.buffers = candidate.subgraphs, candidate.buffers
    named = ", ".join(f"{op} ({count})" for op, count in sorted(done.items()))
    return (f"operators that compute with shapes alone are constants: {named}",)


def _fixed(model: tflite.Flatbuffer, graph: Any) -> tuple[list[Any], set[int]]:
    """Return the operators whose results are fixed, and the tensors whose shapes are not."""
    free = {int(index) for index in graph.inputs}  # tensors of values that are not known
    free |= {index for index, tensor in enumerate(graph.tensors) if tensor.isVariable}
    loose: set[int] = set()  # tensors of shapes that are not known
    found = []
    for operator in graph.operators:
        op = tflite.op_name(model, operator)
        given, made = tflite.given(operator.inputs), tflite.given(operator.outputs)
        unknown = loose & {*given} if op in _SIZES else (loose | free) & {*given}
        if op in (*_SIZES, *_PURE) and not unknown:
            found.append(operator)
            continue
        free |= {*made}
        if loose & {*given} or _decides_shapes(model, graph, op, free & {*given}):
            loose |= {*made}
    return found, loose


def _decides_shapes(model: tflite.Flatbuffer, graph: Any, op: str, free: set[int]) -> bool:
    """Return whether unknown values decide the shape of an operator's result."""
    if op in _OF_VALUES or not hasattr(schema.BuiltinOperator, op):
        return True
    whole = [index for index in free if tflite.type_name(graph.tensors[index]) in _WHOLE]
    return bool(whole) and op not in _OF_SHAPES


def _run(payload: bytes, fixed: list[Any]) -> tuple[Mapping[int, Any], Mapping[int, list[int]]]:
    """Return what the operators `fixed` give, and the shape of every tensor, by a run on zeros."""
    interpreter = keeping_interpreter(payload)
    for one in interpreter.get_input_details():
        interpreter.set_tensor(one["index"], np.zeros(one["shape"], one["dtype"]))
    interpreter.invoke()
    made = {index for operator in fixed for index in tflite.given(operator.outputs)}
    details = interpreter.get_tensor_details()
    shapes = {int(one["index"]): [int(n) for n in one["shape"]] for one in details}
    return {index: interpreter.get_tensor(index) for index in made}, shapes


def _fold(model: tflite.Flatbuffer, numbers: set[int], values: Mapping[int, Any]) -> Counter[str]:
    """Take operators out whose results are known; return how many of each."""
    graph = model.subgraphs[0]
    ends = {int(index) for index in graph.outputs}
    for operator in graph.operators:
        if tflite.op_name(model, operator) == "DEQUANTIZE":
            ends |= {*tflite.given(operator.inputs)}
    gone, kept, done = set(), [], Counter[str]()
    for number, operator in enumerate(graph.operators):
        made = set(tflite.given(operator.outputs))
        if number in numbers and not made & ends and _is_lean(model, operator, values):
            gone |= made
            done[tflite.op_name(model, operator)] += 1
        else:
            kept.append(operator)
    for index in sorted(gone & {i for one in kept for i in tflite.given(one.inputs)}):
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values[index]).tobytes(), np.uint8)
        model.buffers.append(buffer)
        tensor = graph.tensors[index]
        tensor.buffer = len(model.buffers) - 1
        tensor.shape, tensor.shapeSignature = np.array(values[index].shape, np.int32), None
    graph.operators = kept
    _forget_unread(model, graph)
    return done


def _forget_unread(model: tflite.Flatbuffer, graph: Any) -> None:
    """Take the values of constants that nothing reads any more out of the file."""
    read = {i for operator in graph.operators for i in tflite.given(operator.inputs)}
    read |= {int(index) for index in graph.outputs}
    needed = {graph.tensors[index].buffer for index in read}
    for tensor in graph.tensors:
        if tensor.buffer not in needed:
            model.buffers[tensor.buffer].data, tensor.buffer = None, 0


def _is_lean(model: tflite.Flatbuffer, operator: Any, values: Mapping[int, Any]) -> bool:
    """Return whether constants in the place of an operator make the file hardly larger."""
    graph = model.subgraphs[0]
    read = [model.buffers[graph.tensors[i].buffer].data for i in tflite.given(operator.inputs)]
    stored = sum(0 if data is None else len(data) for data in read)
    stored += sum(values[i].nbytes for i in tflite.given(operator.inputs) if i in values)
    made = sum(values[index].nbytes for index in tflite.given(operator.outputs))
    return bool(made <= max(_SMALL, stored))


def _tell_shapes(model: tflite.Flatbuffer, shapes: Mapping[int, list[int]]) -> None:
    """Write down what shapes are in a run, where the file leaves them open."""
    graph = model.subgraphs[0]
    for index in {i for operator in graph.operators for i in tflite.given(operator.outputs)}:
        if index in shapes:
            graph.tensors[index].shape = np.array(shapes[index], np.int32)
            graph.tensors[index].hasRank = True
    for tensor in graph.tensors:
        tensor.shapeSignature = None
