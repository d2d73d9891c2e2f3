"""What a TFLite file still needs after quantisation: names, operator versions, no float left."""

from collections import Counter
from collections.abc import Sequence

from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_compiler.convert.paddings import narrow_paddings, pad_with_zero_point
from edgec_compiler.errors import ConversionError
from edgec_compiler.source import SourceModel

# Versions that TFLite's own converter gives to operators on int8 tensors (tensorflow/lite/tools/
# versioning/op_version.cc); strict consumers such as the Edge TPU compiler look at them.
_INT8_VERSIONS = {
    "ABS": 2,
    "ADD": 2,
    "ARG_MAX": 2,
    "ARG_MIN": 2,
    "AVERAGE_POOL_2D": 2,
    "BATCH_TO_SPACE_ND": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "DEPTH_TO_SPACE": 2,
    "EQUAL": 2,
    "EXP": 2,
    "FULLY_CONNECTED": 4,
    "GATHER": 2,
    "GREATER": 2,
    "GREATER_EQUAL": 2,
    "L2_NORMALIZATION": 2,
    "LESS": 2,
    "LESS_EQUAL": 2,
    "LOG": 2,
    "LOGISTIC": 2,
    "LOG_SOFTMAX": 2,
    "MAXIMUM": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MINIMUM": 2,
    "MUL": 2,
    "NOT_EQUAL": 2,
    "PACK": 2,
    "PAD": 2,
    "PADV2": 2,
    "REDUCE_MAX": 2,
    "REDUCE_MIN": 2,
    "RELU": 2,
    "RELU6": 2,
    "RESIZE_BILINEAR": 2,
    "RESIZE_NEAREST_NEIGHBOR": 2,
    "REVERSE_V2": 3,
    "SLICE": 2,
    "SOFTMAX": 2,
    "SPACE_TO_BATCH_ND": 2,
    "SPACE_TO_DEPTH": 2,
    "SPLIT": 2,
    "SPLIT_V": 2,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "SUM": 2,
    "TANH": 2,
    "TILE": 3,
    "TOPK_V2": 2,
    "TRANSPOSE": 2,
}
_FLOATS = ("float16", "float32", "float64")


def finish(payload: bytes, source: SourceModel, *, full_integer: bool) -> bytes:
    """Return the model with the source's names at its ends and short ones inside.

    Args:
        payload: a converted TFLite model.
        source: names the inputs and outputs.
        full_integer: the target executes integers only; operator versions are set for it.

    Raises:
        ConversionError: `full_integer`, and an operator stayed float.
    """
    model = tflite.parse(payload, "the converted model")
    graph = model.subgraphs[0]
    if full_integer:
        _refuse_floats(model, source)
        narrow_paddings(model)
        pad_with_zero_point(model)
        _reshape_to_numbers(model)
        _set_versions(model)
    for index, tensor in enumerate(graph.tensors):
        tensor.name = f"t{index}".encode()
    taken: set[str] = set()
    ends = [*zip(graph.inputs, source.inputs, strict=True)]
    ends += [*zip(graph.outputs, source.outputs, strict=True)]
    renamed: set[int] = set()
    for index, named in ends:
        if index in renamed:  # an input that is an output too
            continue
        renamed.add(index)
        name = named.name if named.name not in taken else f"{named.name}:out"
        taken.add(name)
        graph.tensors[index].name = name.encode()
    return tflite.serialise(model)


def float_operators(payload: bytes) -> tuple[str, ...]:
    """Return the operators that compute in float, as "OP (tensor of shape ...)"."""
    model = tflite.parse(payload, "the converted model")
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        name = tflite.op_name(model, operator)
        made = [graph.tensors[i] for i in operator.outputs if i != -1]
        floats = [tensor for tensor in made if tflite.type_name(tensor) in _FLOATS]
        if floats and name != "DEQUANTIZE":
            found.append(f"{name} (output of shape {[int(n) for n in floats[0].shape]})")
    return tuple(found)


def counted(operators: Sequence[str], most: int = 5) -> str:
    """Return the first `most` different ones of `operators`, each with how often it is there."""
    counts = Counter(operators)
    shown = [name if n == 1 else f"{n} x {name}" for name, n in list(counts.items())[:most]]
    left = sum(list(counts.values())[most:])
    return ", ".join([*shown, *([f"and {left} more"] if left else [])])


def _refuse_floats(model: tflite.Flatbuffer, source: SourceModel) -> None:
    left = float_operators(tflite.serialise(model)) or _float_ends(model, source)
    if left:
        raise ConversionError(
            f"the target executes integers only, but {counted(left)} would stay float. Replace "
            "this in the model, give a .tflite file that is quantised already (it keeps its "
            "quantisation), or compile for a target with a CPU fallback"
        )


def _float_ends(model: tflite.Flatbuffer, source: SourceModel) -> tuple[str, ...]:
    """Return the inputs and outputs that are floats, outputs with what makes them."""
    graph = model.subgraphs[0]
    makers = {
        int(index): tflite.op_name(model, operator)
        for operator in graph.operators
        for index in operator.outputs
    }
    inputs = [
        f"input {named.name}"
        for index, named in zip(graph.inputs, source.inputs, strict=True)
        if tflite.type_name(graph.tensors[index]) in _FLOATS
    ]
    outputs = [
        f"output {named.name} (made by {makers.get(int(index), 'no operator')})"
        for index, named in zip(graph.outputs, source.outputs, strict=True)
        if tflite.type_name(graph.tensors[index]) in _FLOATS
    ]
    return (*inputs, *outputs)


def _reshape_to_numbers(model: tflite.Flatbuffer) -> None:
    """Let a RESHAPE to no axes at all say so in its options: Vela refuses a constant of nothing."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if tflite.op_name(model, operator) != "RESHAPE" or len(operator.inputs) != 2:
            continue
        sizes = graph.tensors[operator.inputs[1]]
        if sizes.shape is not None and [*sizes.shape] == [0]:
            operator.inputs = operator.inputs[:1]
            operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
            operator.builtinOptions = schema.ReshapeOptionsT()
            operator.builtinOptions.newShape = []


def _set_versions(model: tflite.Flatbuffer) -> None:
    graph = model.subgraphs[0]
    for operator in graph.operators:
        first = graph.tensors[operator.inputs[0]] if len(operator.inputs) else None
        version = _INT8_VERSIONS.get(tflite.op_name(model, operator))
        if first is not None and version and tflite.type_name(first) == "int8":
            model.operatorCodes[operator.opcodeIndex].version = version
