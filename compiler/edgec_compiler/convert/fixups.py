"""What a TFLite file still needs after quantisation: names, operator versions, no float left."""

from edgec_compiler import tflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.source import SourceModel

# Versions that TFLite's own converter gives to operators on int8 tensors (tensorflow/lite/tools/
# versioning/op_version.cc); strict consumers such as the Edge TPU compiler look at them.
_INT8_VERSIONS = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "L2_NORMALIZATION": 2,
    "LOGISTIC": 2,
    "MAXIMUM": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "MINIMUM": 2,
    "MUL": 2,
    "PACK": 2,
    "PAD": 2,
    "PADV2": 2,
    "RELU": 2,
    "RELU6": 2,
    "RESIZE_BILINEAR": 2,
    "RESIZE_NEAREST_NEIGHBOR": 2,
    "SLICE": 2,
    "SOFTMAX": 2,
    "SPLIT": 2,
    "STRIDED_SLICE": 2,
    "SUB": 2,
    "SUM": 2,
    "TANH": 2,
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
        _refuse_floats(model)
        _set_versions(model)
    for index, tensor in enumerate(graph.tensors):
        tensor.name = f"t{index}".encode()
    taken: set[str] = set()
    ends = [*zip(graph.inputs, source.inputs, strict=True)]
    ends += [*zip(graph.outputs, source.outputs, strict=True)]
    for index, named in ends:
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


def _refuse_floats(model: tflite.Flatbuffer) -> None:
    left = float_operators(tflite.serialise(model))
    ends = [*model.subgraphs[0].inputs, *model.subgraphs[0].outputs]
    types = {tflite.type_name(model.subgraphs[0].tensors[index]) for index in ends}
    if left or types & set(_FLOATS):
        shown = ", ".join(left[:5]) or "an input or output of the model"
        raise ConversionError(
            f"the target executes integers only, but {len(left)} operators stay float: {shown}. "
            "Replace them in the model, or compile for a target with a CPU fallback"
        )


def _set_versions(model: tflite.Flatbuffer) -> None:
    graph = model.subgraphs[0]
    for operator in graph.operators:
        first = graph.tensors[operator.inputs[0]] if len(operator.inputs) else None
        version = _INT8_VERSIONS.get(tflite.op_name(model, operator))
        if first is not None and version and tflite.type_name(first) == "int8":
            model.operatorCodes[operator.opcodeIndex].version = version
