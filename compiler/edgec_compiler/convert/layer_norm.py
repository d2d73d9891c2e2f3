"""LayerNormalization in the operators of ONNX opsets that do not have it yet.

(x - mean) / sqrt(variance + epsilon) * scale + bias, node by node, as the specification of the
operator defines it; runtimes that fuse the operator find it in this form too.

Left alone: a node whose mean or deviation is read by somebody, or whose rank is not known.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

FIRST_OPSET = 17  # that has the operator


def write_layer_norms_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the float model `model` without LayerNormalization, of equal outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        alone = node.op_type == "LayerNormalization" and not any(node.output[1:])
        if alone and ranks.get(node.input[0]):
            nodes += _written_out(node, ranks[node.input[0]], copy.graph)
        else:
            nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _written_out(node: onnx.NodeProto, rank: int, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    axis = given.get("axis", -1)
    axes = list(range(axis if axis < 0 else axis - rank, 0))
    out = node.output[0]
    epsilon, along = f"{out}_epsilon", f"{out}_axes"
    graph.initializer.append(
        numpy_helper.from_array(np.array(given.get("epsilon", 1e-5), np.float32), epsilon)
    )
    graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), along))
    steps = [
        ("ReduceMean", (node.input[0], along), f"{out}_mean"),
        ("Sub", (node.input[0], f"{out}_mean"), f"{out}_centred"),
        ("Mul", (f"{out}_centred", f"{out}_centred"), f"{out}_squared"),
        ("ReduceMean", (f"{out}_squared", along), f"{out}_variance"),
        ("Add", (f"{out}_variance", epsilon), f"{out}_raised"),
        ("Sqrt", (f"{out}_raised",), f"{out}_deviation"),
        ("Div", (f"{out}_centred", f"{out}_deviation"), f"{out}_normal"),
    ]
    biased = len(node.input) > 2 and bool(node.input[2])
    steps.append(("Mul", (f"{out}_normal", node.input[1]), f"{out}_scaled" if biased else out))
    if biased:
        steps.append(("Add", (f"{out}_scaled", node.input[2]), out))
    return [helper.make_node(op, inputs, [made], name=made) for op, inputs, made in steps]
