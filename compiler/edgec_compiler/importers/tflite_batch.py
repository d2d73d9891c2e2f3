"""Gives the ends of a TFLite model without a batch axis one, so that devices can serve it in rows.

Audio models often take a bare waveform, and detectors give bare lists of boxes. Mended: outputs
without the axis where all inputs have it, and inputs without it where all outputs have. Left alone:
models for batches of more than one.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_compiler.importers.tflite_reshapes import make_reshape
from edgec_runtime.session import ModelTensor


def add_batch_axes(
    model: tflite.Flatbuffer, inputs: Sequence[ModelTensor], outputs: Sequence[ModelTensor]
) -> tuple[str, ...]:
    """Add the axes in place; return a note for each.

    Args:
        model: to be changed.
        inputs: as the runtime tells them, in the file's order.
        outputs: likewise.
    """
    graph = model.subgraphs[0]
    batched = [tensor.shape[:1] == (1,) for tensor in inputs]
    if all(batched):
        lacking = [i for i, one in enumerate(outputs) if one.shape[:1] != (1,) and _fixed(one)]
        made = {int(i) for operator in graph.operators for i in tflite.given(operator.outputs)}
        lacking = [i for i in lacking if int(graph.outputs[i]) in made]
        for index in lacking:
            _at_output(model, graph, index, [1, *outputs[index].shape])
        return tuple(_note("output", outputs[index]) for index in lacking)
    if any(batched) or not all(map(_fixed, inputs)) or any(o.shape[:1] != (1,) for o in outputs):
        return ()
    for index, tensor in enumerate(inputs):
        _at_input(model, graph, index, list(tensor.shape))
    return tuple(_note("input", tensor) for tensor in inputs)


def _fixed(tensor: ModelTensor) -> bool:
    return all(size > 0 for size in tensor.shape)


def _note(kind: str, tensor: ModelTensor) -> str:
    shape = [1, *tensor.shape]
    return f"{kind} '{tensor.name}' has no batch axis: it gets one, and is {shape}"


def _at_output(model: tflite.Flatbuffer, graph: Any, index: int, shape: list[int]) -> None:
    inner = int(graph.outputs[index])
    outer = _twin(graph, inner, shape)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [inner], [outer]
    make_reshape(model, graph, operator, shape)
    graph.operators.append(operator)
    graph.outputs = [outer if i == index else int(old) for i, old in enumerate(graph.outputs)]
    _sign(model, "outputs", inner, outer)


def _at_input(model: tflite.Flatbuffer, graph: Any, index: int, shape: list[int]) -> None:
    inner = int(graph.inputs[index])
    outer = _twin(graph, inner, [1, *shape])
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [outer], [inner]
    make_reshape(model, graph, operator, shape)
    graph.operators.insert(0, operator)
    graph.inputs = [outer if i == index else int(old) for i, old in enumerate(graph.inputs)]
    _sign(model, "inputs", inner, outer)


def _twin(graph: Any, inner: int, shape: list[int]) -> int:
    """Add a tensor like `inner` of another shape, which takes its name; return its number."""
    tensor = copy.copy(graph.tensors[inner])
    tensor.shape, tensor.shapeSignature = np.array(shape, np.int32), None
    tensor.hasRank = True
    graph.tensors[inner].name = (tensor.name or b"") + b":without_batch"
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _sign(model: tflite.Flatbuffer, ends: str, inner: int, outer: int) -> None:
    """Let the file's signatures name the new end."""
    for signature in model.signatureDefs or ():
        for named in getattr(signature, ends) or ():
            if named.tensorIndex == inner:
                named.tensorIndex = outer
