"""Gives NonMaxSuppression the fixed number of rows that a device with planned memory needs.

The imported module has it so (`composites.selection`); the same is written into the source's own
file, so that both answer alike. Left alone: those inside of loops and branches.
"""

from collections.abc import Iterator
from typing import Any

import onnx
from onnx import helper

from edgec_compiler.composites.selection import EMPTY
from edgec_compiler.importers.onnx_module import OnnxModule

_OP = "NonMaxSuppression"


def notes_on(module: OnnxModule) -> tuple[str, ...]:
    """Return what people shall hear about the rows of selected boxes."""
    found = [node for node, _ in module.steps if node.op == _OP]
    return tuple(
        f"{_OP} '{node.outputs[0]}' always has as many rows as boxes could be selected: those "
        f"behind the last selected one hold {EMPTY}, and what is picked by them means nothing"
        for node in found
    )


def with_fixed_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model`, or a copy whose selections are filled up with rows of -1."""
    if not any(node.op_type == _OP for node in model.graph.node):
        return model
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:]
    for number, node in enumerate(model.graph.node):
        if node.op_type == _OP and node.input[2:3] and node.input[2]:
            made.graph.node.extend(_filled(node, f"edgec_rows_{number}"))
        else:
            made.graph.node.append(node)
    return made


def _filled(node: onnx.NodeProto, prefix: str) -> Iterator[onnx.NodeProto]:
    """Yield `node` under another name, and what fills its rows up: only old operators."""
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    inner.output[0] = f"{prefix}_found"
    yield inner
    boxes, scores, most = node.input[:3]

    def named(what: str) -> str:
        return f"{prefix}_{what}"

    for what, values in (("zero", [0]), ("one", [1]), ("three", [3]), ("empty", [EMPTY])):
        tensor = helper.make_tensor(what, onnx.TensorProto.INT64, [1], values)
        yield helper.make_node("Constant", [], [named(what)], value=tensor)
    steps: tuple[tuple[str, list[str], str, dict[str, Any]], ...] = (
        ("Shape", [boxes], "boxes", {}),
        ("Shape", [scores], "scores", {}),
        ("Gather", [named("boxes"), named("one")], "all", {}),
        ("Reshape", [most, named("one")], "most", {}),
        ("Min", [named("all"), named("most")], "each", {}),
        ("Gather", [named("scores"), named("zero")], "batch", {}),
        ("Gather", [named("scores"), named("one")], "classes", {}),
        ("Mul", [named("batch"), named("classes")], "groups", {}),
        ("Mul", [named("groups"), named("each")], "rows", {}),
        ("Shape", [named("found")], "size", {}),
        ("Gather", [named("size"), named("zero")], "taken", {}),
        ("Sub", [named("rows"), named("taken")], "left", {}),
        ("Concat", [named("left"), named("three")], "shape", {"axis": 0}),
        ("Expand", [named("empty"), named("shape")], "filling", {}),
    )
    for op, inputs, what, attributes in steps:
        yield helper.make_node(op, inputs, [named(what)], **attributes)
    both = [named("found"), named("filling")]
    yield helper.make_node("Concat", both, [node.output[0]], axis=0)
