"""Operators that an older opset has in the same form, and ONNX's converter has no adapter for.

The converter leaves operators of other domains alone: these lie in one while it runs.
"""

import numpy as np
import onnx
from onnx import helper, numpy_helper

LEAST_OPSET = 13  # since when the forms below are what they are up to opset 17
_ASIDE = "edgec.aside"


def set_aside(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model`, its shapes inferred, with such operators in a domain of their own.

    Identity of a tensor; Pad over all axes; Split, whose parts become an input.
    """
    copy = onnx.shape_inference.infer_shapes(model)
    sizes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*copy.graph.value_info, *copy.graph.output)
    }
    for node in copy.graph.node:
        if node.op_type == "Split" and not _with_parts(copy, node, sizes):
            continue
        over_all = len(node.input) < 4 or not node.input[3]
        wraps = any(a.name == "mode" and a.s == b"wrap" for a in node.attribute)
        if node.op_type in ("Identity", "Split") or (
            node.op_type == "Pad" and over_all and not wraps
        ):
            node.domain = _ASIDE
    copy.opset_import.append(helper.make_opsetid(_ASIDE, 1))
    return copy


def put_back(model: onnx.ModelProto) -> None:
    """Undo, in place, what `set_aside` did to the domains."""
    for node in model.graph.node:
        if node.domain == _ASIDE:
            node.domain = ""
    kept = [one for one in model.opset_import if one.domain != _ASIDE]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _with_parts(model: onnx.ModelProto, node: onnx.NodeProto, sizes: dict[str, list[int]]) -> bool:
    """Give a Split its parts as an input, if it has their number alone; say whether it has them."""
    if len(node.input) > 1 and node.input[1]:
        return True
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    shapes = [sizes.get(name, []) for name in node.output]
    if not all(shapes) or not all(shape[axis] > 0 for shape in shapes):
        return False
    name = f"{node.output[0]}/parts"
    parts = np.array([shape[axis] for shape in shapes], np.int64)
    model.graph.initializer.append(numpy_helper.from_array(parts, name))
    del node.input[1:]
    node.input.append(name)
    for attribute in [one for one in node.attribute if one.name == "num_outputs"]:
        node.attribute.remove(attribute)
    return True
