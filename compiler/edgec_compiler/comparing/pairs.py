"""Which tensor of a compiled model stands for which layer of its float form.

TFLite: quantisers only put QUANTIZE and DEQUANTIZE between operators, so operators are matched in
order. ONNX: tensors keep their names; what a Q/DQ pair stands for is what is behind it. An
activation that a pair has swallowed is compared as part of the layer before it.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from edgec_compiler import tflite
from edgec_compiler.quantise.layers import Layer, onnx_layers, tflite_layers

_FLOAT_READS = ("float32", "int32", "int64", "bool")
_ADDED = ("QUANTIZE", "DEQUANTIZE")
_CODED = ("QuantizeLinear",)
_PAIRED = ("_DequantizeLinear_Output", "_DequantizeLinear_Output_1")


@dataclass(frozen=True, slots=True)
class Pair:
    """A layer, and the tensors to compare. Names in ONNX, numbers of tensors in TFLite."""

    layer: Layer
    exact: str | int
    made: str | int
    sources: tuple[str, ...]  # layers whose values it reads
    in_float: bool  # the compiled model computes it in float32


def tflite_pairs(exact: bytes, made: bytes) -> tuple[Pair, ...]:
    """Return the pairs of a float TFLite form and a compiled model, in execution order."""
    left, right = tflite.parse(exact, "the float model"), tflite.parse(made, "the bundle's model")
    known = {layer.name: layer for layer in tflite_layers(exact)}
    graphs = left.subgraphs[0], right.subgraphs[0]
    own = [tflite.op_name(left, operator) for operator in graphs[0].operators]
    others = [
        (tflite.op_name(right, operator), operator)
        for operator in graphs[1].operators
        if tflite.op_name(right, operator) not in _ADDED
    ]
    matcher = difflib.SequenceMatcher(None, own, [name for name, _ in others], autojunk=False)
    makers: dict[int, str] = {}
    found = []
    for start, other, size in matcher.get_matching_blocks():
        for step in range(size):
            operator, name = (
                graphs[0].operators[start + step],
                f"{own[start + step]}:{start + step}",
            )
            if name not in known:
                continue
            mate = others[other + step][1]
            output, at = int(operator.outputs[0]), int(mate.outputs[0])
            reads = [makers[i] for i in tflite.given(operator.inputs) if i in makers]
            is_float = _is_float(left, operator, right, mate)
            found.append(Pair(known[name], output, at, tuple(reads), is_float))
            makers[output] = name
    return tuple(found)


def _is_float(left: tflite.Flatbuffer, operator: Any, right: tflite.Flatbuffer, mate: Any) -> bool:
    """Return whether `mate` computes `operator` in float32, with weights that were stored so."""
    before, after = left.subgraphs[0].tensors, right.subgraphs[0].tensors
    if tflite.type_name(after[mate.outputs[0]]) != "float32":
        return False
    for old, new in zip(operator.inputs, mate.inputs, strict=True):
        if new == -1:
            continue
        if tflite.type_name(after[new]) not in _FLOAT_READS:
            return False
        if tflite.is_constant(left, before[old]) and not tflite.is_constant(right, after[new]):
            return False
    return True


def onnx_pairs(exact: onnx.ModelProto, made: onnx.ModelProto) -> tuple[Pair, ...]:
    """Return the pairs of a float ONNX form and a compiled model, in execution order."""
    there = {name for node in made.graph.node for name in node.output}
    floats = _floats(made)
    constants = {
        tensor.name
        for tensor in exact.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in exact.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    makers: dict[str, str] = {}
    found = []
    for layer in onnx_layers(exact):
        if layer.output in makers:
            continue  # swallowed by the layer before it
        at = layer.output
        if _tensor(at, there) is None and len(readers.get(at, [])) == 1:
            at = readers[at][0].output[0]
        mate = _tensor(at, there)
        if mate is None:
            continue
        node = next(node for node in exact.graph.node if layer.output in node.output)
        reads = tuple(makers[name] for name in node.input if name in makers)
        stored = [name for name in node.input if name in constants]
        is_float = all(name in floats for name in stored) and (bool(stored) or at in floats)
        found.append(Pair(layer, at, mate, reads, is_float))
        makers[layer.output] = makers[at] = layer.name
    return tuple(found)


def _floats(model: onnx.ModelProto) -> set[str]:
    """Return the tensors that are float32 and no integers' stand-ins: constants and results."""
    coded = {name for node in model.graph.node if node.op_type in _CODED for name in node.input}
    made = [node for node in model.graph.node if node.op_type != "DequantizeLinear"]
    stored = [
        one.name for one in model.graph.initializer if one.data_type == onnx.TensorProto.FLOAT
    ]
    return {*stored, *(name for node in made for name in node.output)} - coded


def _tensor(name: str, there: set[str]) -> str | None:
    """Return the tensor of a compiled model for `name`: behind its pair, if it has one."""
    candidates: Sequence[str] = (*(name + suffix for suffix in _PAIRED), name)
    return next((one for one in candidates if one in there), None)
