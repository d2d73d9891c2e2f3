"""Expands operators that ONNX itself defines as a function of simpler ones, and local functions."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from edgec_compiler.importers.onnx_contrib import written_out

_OWN_DOMAINS = ("", "ai.onnx")


def expand(
    node: onnx.NodeProto,
    opset: int,
    types: tuple[onnx.TypeProto, ...],
    local: Mapping[tuple[str, str], onnx.FunctionProto],
) -> list[onnx.NodeProto] | None:
    """Return the nodes that `node` stands for, or None if it is not a function.

    Args:
        node: the operator.
        opset: version of ONNX's own operators.
        types: of the node's inputs, for functions that depend on them.
        local: the model's own functions by (domain, name).
    """
    body = local.get((node.domain, node.op_type))
    if body is not None:
        return _inline(node, body)
    if node.domain not in _OWN_DOMAINS:
        return written_out(node, types)
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    node = _with_defaults(node, schema)
    body = _standard_body(node, schema, opset, types)
    return None if body is None else _inline(node, body)


def _with_defaults(node: onnx.NodeProto, schema: Any) -> onnx.NodeProto:
    """Return `node` with the attributes that it leaves to the operator's definition."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.name:
            copy.attribute.append(attribute.default_value)
    return copy


def _standard_body(
    node: onnx.NodeProto,
    schema: Any,  # OpSchema: its stub lacks what is about functions
    opset: int,
    types: tuple[onnx.TypeProto, ...],
) -> onnx.FunctionProto | None:
    if schema.has_function:
        version = max(v for v in schema.function_opset_versions if v <= opset)
        payload = schema.get_function_with_opset_version(version)
        return _function(payload)
    if schema.has_context_dependent_function:
        version = max(v for v in schema.context_dependent_function_opset_versions if v <= opset)
        payload = schema.get_context_dependent_function_with_opset_version(
            version, node.SerializeToString(), [one.SerializeToString() for one in types]
        )
        return _function(payload) if payload else None
    return None


def _function(payload: bytes) -> onnx.FunctionProto:
    body: onnx.FunctionProto = onnx.FunctionProto.FromString(payload)
    return body


def _inline(node: onnx.NodeProto, body: onnx.FunctionProto) -> list[onnx.NodeProto]:
    """Return the body's nodes with the caller's names, and the caller's attributes filled in."""
    prefix = f"{node.output[0]}/{node.op_type}/"
    names = {name: prefix + name for inner in body.node for name in inner.output if name}
    names.update(dict.fromkeys(body.input, ""))  # an optional input that is left out has no name
    names.update(zip(body.input, node.input, strict=False))
    names.update(zip(body.output, node.output, strict=False))
    given = {default.name: default for default in body.attribute_proto}
    given.update((attribute.name, attribute) for attribute in node.attribute)
    return [_renamed(inner, names, given) for inner in body.node]


def inline_graph(
    graph: onnx.GraphProto, prefix: str, inputs: Sequence[str]
) -> tuple[list[onnx.NodeProto], dict[str, onnx.TensorProto], list[str]]:
    """Return a subgraph's nodes, initialisers and output names, with `prefix` before its own names.

    Args:
        graph: the body of an `If`, `Loop` or `Scan`; it may read names of the graph around it.
        prefix: makes its names unlike those of its other uses.
        inputs: names of what the caller passes, in order.
    """
    names = {name: prefix + name for inner in graph.node for name in inner.output if name}
    names.update((one.name, prefix + one.name) for one in graph.initializer)
    names.update(zip((value.name for value in graph.input), inputs, strict=False))
    nodes = [_renamed(inner, names, {}) for inner in graph.node]
    initialisers = {names[one.name]: one for one in graph.initializer}
    return nodes, initialisers, [names.get(value.name, value.name) for value in graph.output]


def _renamed(
    node: onnx.NodeProto, names: Mapping[str, str], given: Mapping[str, onnx.AttributeProto]
) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    del copy.attribute[:]
    for attribute in node.attribute:
        if attribute.ref_attr_name and attribute.ref_attr_name not in given:
            continue  # the caller leaves it to the operator's own default
        filled = copy.attribute.add()
        filled.CopyFrom(given.get(attribute.ref_attr_name, attribute))
        filled.name = attribute.name
        if attribute.type == onnx.AttributeProto.GRAPH:
            inside = [_renamed(inner, names, given) for inner in attribute.g.node]
            del filled.g.node[:]
            filled.g.node.extend(inside)
            for value in filled.g.output:
                value.name = names.get(value.name, value.name)
    return copy
