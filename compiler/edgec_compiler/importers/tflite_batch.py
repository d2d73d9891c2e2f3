"""Gives the ends of a TFLite model without a batch axis one, so that devices can serve it in rows.

Left alone: ends of free shape, and outputs that no operator makes.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_compiler.importers.batch_axes import Places, lacking, notes_on
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
    made = {int(i) for operator in graph.operators for i in tflite.given(operator.outputs)}
    found = lacking(inputs, outputs)
    made_here = tuple(place for place in found.outputs if int(graph.outputs[place]) in made)
    places = Places(found.inputs, made_here)
    ends = [inputs[place] for place in places.inputs] + [outputs[place] for place in made_here]
    if not all(map(_fixed, ends)):
        return ()
    for place in places.inputs:
        _at_input(model, graph, place, list(inputs[place].shape))
    for place in places.outputs:
        _at_output(model, graph, place, [1, *outputs[place].shape])
    return notes_on(inputs, outputs, places)


def _fixed(tensor: ModelTensor) -> bool:
    return all(size > 0 for size in tensor.shape)


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
