"""Gives outputs without a batch axis one, as the lists of boxes of detectors need it.

A raw sample makes one row of every output. Left alone: models for batches of more than one, and
outputs that no operator makes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from edgec_runtime.session import ModelTensor


@dataclass(frozen=True, slots=True)
class Batched:
    """A model, and what people shall hear about its outputs."""

    model: onnx.ModelProto
    notes: tuple[str, ...]


def with_batch_axis(
    model: onnx.ModelProto, inputs: Sequence[ModelTensor], outputs: Sequence[ModelTensor]
) -> Batched | None:
    """Return a copy of `model` in which every output has a batch axis, or None if it has."""
    if any(tensor.shape[:1] != (1,) for tensor in inputs):
        return None
    made_here = {name for node in model.graph.node for name in node.output}
    lacking = [one for one in outputs if one.shape[:1] != (1,) and one.name in made_here]
    if not lacking:
        return None
    made = onnx.ModelProto()
    made.CopyFrom(model)
    names = {one.name: f"{one.name}:without_batch" for one in lacking}
    _rename(made.graph.node, names)
    for one in lacking:
        shape = [1, *one.shape]
        sizes = helper.make_tensor("shape", onnx.TensorProto.INT64, [len(shape)], shape)
        wanted = f"{one.name}:shape"
        made.graph.node.append(helper.make_node("Constant", [], [wanted], value=sizes))
        made.graph.node.append(helper.make_node("Reshape", [names[one.name], wanted], [one.name]))
    notes = tuple(
        f"output '{one.name}' has no batch axis: it gets one, and is {[1, *one.shape]}"
        for one in lacking
    )
    return Batched(made, notes)


def _rename(nodes: Iterable[onnx.NodeProto], names: dict[str, str]) -> None:
    """Give values other names in place, in the bodies of loops and branches too."""
    for node in nodes:
        for values in (node.input, node.output):
            for place, name in enumerate(values):
                values[place] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g.node, names)
                for value in attribute.g.output:
                    value.name = names.get(value.name, value.name)
