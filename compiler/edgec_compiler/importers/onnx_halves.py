"""Reads an ONNX model of 16-bit floats as one of float32, which holds all of their values.

Neither LiteRT nor ONNX Runtime's quantiser computes with float16 tensors, and every target gets the
precision that it asks for anyway. Left as it is: a model that looks at the bits of its floats.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
_TYPES = frozenset({"to", "dtype", "output_dtype", "stash_type"})  # attributes that name a type
NOTE = "its 16-bit floats are read as float32; each target gets the precision that it asks for"


def widen(model: onnx.ModelProto) -> tuple[str, ...]:
    """Make every 16-bit float of `model` a float32, in place; return a note if there were some."""
    graphs = [model.graph, *_bodies(model.graph.node)]
    nodes = [node for one in (*graphs, *model.functions) for node in one.node]
    nodes += [node for f in model.functions for body in _bodies(f.node) for node in body.node]
    if any(node.op_type == "BitCast" for node in nodes):
        return ()
    changed = [_widen_graph(graph) for graph in graphs]
    changed += [_widen_attributes(node.attribute) for node in nodes]
    return (NOTE,) if any(changed) else ()


def _bodies(nodes: Iterable[onnx.NodeProto]) -> list[onnx.GraphProto]:
    """Return the subgraphs of `nodes`, and those of their nodes."""
    own = [a.g for node in nodes for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return own + [inner for body in own for inner in _bodies(body.node)]


def _widen_graph(graph: onnx.GraphProto) -> bool:
    changed = [_widen_tensor(tensor) for tensor in graph.initializer]
    for value in (*graph.input, *graph.output, *graph.value_info):
        half = value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in _HALVES
        if half:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        changed.append(half)
    return any(changed)


def _widen_attributes(attributes: Sequence[onnx.AttributeProto]) -> bool:
    changed = []
    for attribute in attributes:
        if attribute.type == onnx.AttributeProto.TENSOR:
            changed.append(_widen_tensor(attribute.t))
        elif attribute.name in _TYPES and attribute.i in _HALVES:
            attribute.i = TensorProto.FLOAT
            changed.append(True)
    return any(changed)


def _widen_tensor(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type not in _HALVES:
        return False
    values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return True
