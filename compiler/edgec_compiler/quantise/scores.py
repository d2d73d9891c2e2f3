"""The scores that a softmax weighs: how far down their range has to reach.

What lies far below the largest of its row gets nothing, however far, so masks would widen the range
and coarsen its steps to no purpose. Cut off is what, all of a row together, gets less than a
thousandth. Left alone: tensors that anything but softmaxes reads, and rows that are masked whole.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import onnx

from edgec_compiler import tflite
from edgec_compiler.passes.masks import BOUND
from edgec_runtime.session import Array

_SHARE = 1 / 1024
_Key = TypeVar("_Key", int, str)  # TFLite numbers its tensors, ONNX names them
_PASSED_ON = ("RESHAPE", "Reshape")  # with the same last axis


def cut_off(scores: Array) -> Array:
    """Return `scores` [..., n] with those raised that get less than a thousandth, all together."""
    if scores.ndim == 0 or scores.size == 0:
        return scores
    largest = scores.max(axis=-1)
    largest = largest[largest > -BOUND / 2]  # the others are masked whole
    if largest.size == 0:
        return scores
    floor = float(largest.min()) - math.log(scores.shape[-1] / _SHARE)
    raised: Array = np.maximum(scores, np.asarray(floor, scores.dtype))
    return raised


def tflite_scores(payload: bytes) -> frozenset[str]:
    """Return the names of the tensors that only softmaxes over the last axis read."""
    model = tflite.parse(payload, "the float model")
    graph = model.subgraphs[0]
    kept = {int(index) for index in graph.outputs}
    shapes = {i: () if one.shape is None else one.shape for i, one in enumerate(graph.tensors)}
    last = {index: tuple(map(int, shape))[-1:] for index, shape in shapes.items()}
    operators = [
        (
            tflite.op_name(model, one),
            [int(i) for i in tflite.given(one.inputs)],
            [int(i) for i in one.outputs],
        )
        for one in graph.operators
    ]
    found = _only_read(operators, kept, last, "SOFTMAX")
    return frozenset(tflite.tensor_name(graph.tensors[index]) for index in found)


def onnx_scores(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the tensors that only softmaxes over the last axis read."""
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    sizes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in known}
    last = {name: shape[-1:] for name, shape in sizes.items()}

    def name(node: onnx.NodeProto) -> str:
        axis = next((int(a.i) for a in node.attribute if a.name == "axis"), -1)
        rank = len(sizes.get(node.input[0], ())) if node.input else 0
        return f"{node.op_type}{'' if axis in (-1, rank - 1) else ' over another axis'}"

    operators = [(name(node), list(node.input), list(node.output)) for node in model.graph.node]
    found = _only_read(operators, {one.name for one in model.graph.output}, last, "Softmax")
    return frozenset(found)


def _only_read(
    operators: Sequence[tuple[str, list[_Key], list[_Key]]],
    kept: Iterable[_Key],
    last: Mapping[_Key, tuple[int, ...]],
    softmax: str,
) -> set[_Key]:
    """Return the tensors whose every reader is a softmax, or passes them on to such."""
    others: set[_Key] = set(kept)
    found: set[_Key] = set()
    for op, inputs, outputs in reversed(operators):
        passed = op in _PASSED_ON and outputs[0] in found - others
        size = last.get(inputs[0]) if inputs else None
        if inputs and (op == softmax or (passed and size and size == last.get(outputs[0]))):
            found.add(inputs[0])
            others.update(inputs[1:])
        else:
            others.update(inputs)
    return found - others
