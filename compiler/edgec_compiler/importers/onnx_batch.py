"""Gives ends of an ONNX model without a batch axis one.

Left alone: outputs that no operator makes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import helper

from edgec_compiler.importers.batch_axes import Places, lacking, notes_on, with_axis
from edgec_runtime.session import ModelTensor


@dataclass(frozen=True, slots=True)
class Batched:
    """A model with its inputs, and what people shall hear about its ends."""

    model: onnx.ModelProto
    inputs: tuple[ModelTensor, ...]
    notes: tuple[str, ...]


def with_batch_axis(
    model: onnx.ModelProto, inputs: Sequence[ModelTensor], outputs: Sequence[ModelTensor]
) -> Batched | None:
    """Return a copy of `model` in which every end has a batch axis, or None if it has.

    What the model declares of its inputs' shapes is left as it was: see `onnx_file.with_shapes`.
    """
    made_here = {name for node in model.graph.node for name in node.output}
    found = lacking(inputs, outputs)
    made_here_too = tuple(place for place in found.outputs if outputs[place].name in made_here)
    places = Places(found.inputs, made_here_too)
    into = [inputs[place] for place in places.inputs]
    out = [outputs[place] for place in places.outputs]
    if not into and not out:
        return None
    made = onnx.ModelProto()
    made.CopyFrom(model)
    names = {one.name: f"{one.name}:without_batch" for one in (*into, *out)}
    _rename(made.graph.node, names)
    for one in reversed(into):
        for node in reversed(_reshape(one.name, one.name, names[one.name], one.shape)):
            made.graph.node.insert(0, node)
    for one in out:
        made.graph.node.extend(_reshape(one.name, names[one.name], one.name, (1, *one.shape)))
    notes = notes_on(inputs, outputs, places)
    return Batched(made, with_axis(inputs, places.inputs), notes)


def _reshape(end: str, source: str, made: str, shape: Sequence[int]) -> tuple[onnx.NodeProto, ...]:
    wanted = f"{end}:shape"
    sizes = helper.make_tensor("shape", onnx.TensorProto.INT64, [len(shape)], shape)
    constant = helper.make_node("Constant", [], [wanted], value=sizes)
    return constant, helper.make_node("Reshape", [source, wanted], [made])


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
