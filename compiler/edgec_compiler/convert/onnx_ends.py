"""Gives an ONNX graph the names of its ends, where torch's exporter would mix them up.

The exporter calls inner values by its operators ("conv2d"), as Keras calls layers, and so outputs:
an output of that name would be the inner value as well.
"""

from collections.abc import Mapping

import onnx

from edgec_compiler.source import SourceModel


def own_names(source: SourceModel) -> dict[str, str]:
    """Return names that no inner value has, in order, with the source's own names of its ends."""
    inputs = {f"edgec.input.{i}": one.name for i, one in enumerate(source.inputs)}
    return inputs | {f"edgec.output.{i}": one.name for i, one in enumerate(source.outputs)}


def is_mixed_up(model: onnx.ModelProto) -> bool:
    """Return whether two values of a graph have the same name."""
    graph = model.graph
    names = [one.name for one in (*graph.input, *graph.initializer)]
    names += [name for node in graph.node for name in node.output if name]
    return len(set(names)) != len(names)


def rename(model: onnx.ModelProto, ends: Mapping[str, str]) -> None:
    """Rename the ends in place; inner values that have such a name already make way."""
    _rename(model.graph, ends, frozenset(ends.values()))


def _rename(graph: onnx.GraphProto, ends: Mapping[str, str], taken: frozenset[str]) -> None:
    def new(name: str) -> str:
        return ends.get(name) or (f"{name}_inner" if name in taken else name)

    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = new(value.name)
    for node in graph.node:
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.g.node else attribute.graphs:
                _rename(inner, ends, taken)
