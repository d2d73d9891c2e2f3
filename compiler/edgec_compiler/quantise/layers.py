"""The layers of a float form, by names that stay the same and can be pasted on a command line.

A layer is one operator that computes floats. In TFLite it is called after its operator and its
number in the float form ("CONV_2D:3"), in ONNX after its first output ("conv2d_1"). Equal models
give equal names; options, calibration data and precision have no say in them.
"""

import difflib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx

from edgec_compiler import tflite
from edgec_compiler.errors import UsageError

_NEAREST = 3


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator of a float form."""

    name: str
    op: str
    output: str  # the tensor that it makes, as the float form calls it
    weights: int  # how many constant numbers it reads
    macs: int  # multiplications and additions of weights or matrices for one inference


def chosen(layers: Sequence[Layer], names: Iterable[str]) -> tuple[Layer, ...]:
    """Return the layers called `names`, in the order of the form.

    Raises:
        UsageError: there is no such layer; the message has the nearest names.
    """
    wanted = set()
    for name in sorted(set(names)):
        layer = find(layers, name)
        if layer is None:
            raise UsageError(no_such_layer(name, layers))
        wanted.add(layer.name)
    return tuple(layer for layer in layers if layer.name in wanted)


def find(layers: Sequence[Layer], name: str) -> Layer | None:
    """Return the layer that people call `name`, None if there is none.

    That is a layer's own name; else, as a name is pasted from a list or a table, the same with
    blanks, quotes or a comma around it, or in other letters' case; else that of its output.
    """
    bare = name.strip(" \t\r\n,;'\"`")
    same = [layer for layer in layers if layer.name == name]
    same = same or [layer for layer in layers if layer.name == bare]
    same = same or [layer for layer in layers if layer.output == bare]
    same = same or [layer for layer in layers if layer.name.casefold() == bare.casefold()]
    return same[0] if len(same) == 1 else None


def no_such_layer(name: str, layers: Sequence[Layer]) -> str:
    """Return what to say of a name that none of `layers` has."""
    return f"--float-layer {name}: no such layer; {_nearest(name, layers)}"


def as_options(names: Iterable[str]) -> str:
    """Return the options that keep the layers `names` in float, ready to paste into a shell."""
    words = {True: "--float-layer=", False: "--float-layer "}  # a leading dash would be an option
    return " ".join(f"{words[name.startswith('-')]}{shlex.quote(name)}" for name in names)


def _nearest(name: str, layers: Sequence[Layer]) -> str:
    known = [layer.name for layer in layers]
    found = difflib.get_close_matches(name, known, _NEAREST, 0.3)
    if not found:
        heavy = sorted(layers, key=lambda layer: -layer.weights)
        return f"some of this model are {', '.join(layer.name for layer in heavy[:_NEAREST])}"
    return f"the nearest are {', '.join(found)}"


def tflite_layers(payload: bytes) -> tuple[Layer, ...]:
    """Return the layers of a float TFLite form, in execution order."""
    model = tflite.parse(payload, "the float model")
    graph = model.subgraphs[0]
    found = []
    for number, operator in enumerate(graph.operators):
        made = [graph.tensors[index] for index in operator.outputs if index != -1]
        if not made or tflite.type_name(made[0]) != "float32":
            continue
        op = tflite.op_name(model, operator)
        given = [graph.tensors[i] for i in tflite.given(operator.inputs)]
        constants = [one for one in given if tflite.is_constant(model, one)]
        weights = sum(_size(one) for one in constants if tflite.type_name(one) == "float32")
        macs = _tflite_macs(op, [_shape(one) for one in given], _shape(made[0]))
        found.append(Layer(f"{op}:{number}", op, tflite.tensor_name(made[0]), weights, macs))
    return tuple(found)


def _tflite_macs(op: str, inputs: list[list[int]], made: list[int]) -> int:
    if len(inputs) < 2:
        return 0
    first, second = inputs[:2]
    match op:
        case "CONV_2D":
            return prod(made) * prod(second[1:])
        case "DEPTHWISE_CONV_2D":
            return prod(made) * prod(second[1:3])
        case "TRANSPOSE_CONV" if len(inputs) > 2:
            return prod(inputs[2]) * prod(second[:3])
        case "FULLY_CONNECTED" | "BATCH_MATMUL" if first:
            return prod(made) * (second[-1] if op == "FULLY_CONNECTED" else first[-1])
    return 0


def _shape(tensor: Any) -> list[int]:
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]


def _size(tensor: Any) -> int:
    return prod(_shape(tensor))


def onnx_layers(model: onnx.ModelProto) -> tuple[Layer, ...]:
    """Return the layers of a float ONNX form, in execution order."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    sizes = {one.name: list(one.dims) for one in graph.initializer}
    floats = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
    types = {one.name: onnx.TensorProto.FLOAT for one in graph.initializer if one.name in floats}
    shapes = dict(sizes)
    for value in (*graph.input, *graph.value_info, *graph.output):
        types[value.name] = value.type.tensor_type.elem_type
        shapes[value.name] = [one.dim_value for one in value.type.tensor_type.shape.dim]
    found = []
    for node in graph.node:
        output = next((name for name in node.output if name), "")
        if types.get(output) != onnx.TensorProto.FLOAT:
            continue
        weights = sum(prod(sizes[name]) for name in node.input if name in floats)
        given = [shapes.get(name, []) for name in node.input]
        macs = _onnx_macs(node.op_type, given, shapes[output])
        found.append(Layer(output, node.op_type, output, weights, macs))
    return tuple(found)


def _onnx_macs(op: str, inputs: list[list[int]], made: list[int]) -> int:
    if len(inputs) < 2 or not inputs[0]:
        return 0
    first, second = inputs[:2]
    match op:
        case "Conv":
            return prod(made) * prod(second[1:])
        case "ConvTranspose":
            return prod(first) * prod(second[1:])
        case "MatMul":
            return prod(made) * first[-1]
        case "Gemm" if made:
            return prod(made) * prod(second) // made[-1]
    return 0
