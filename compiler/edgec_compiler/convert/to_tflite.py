"""A captured graph as a float TFLite file with channel-last images, the same bytes every time."""

import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx, nn

from edgec_compiler import tflite
from edgec_compiler.composites import WITHOUT_PARTS
from edgec_compiler.convert.layout import teach_layouts
from edgec_compiler.errors import ConversionError
from edgec_compiler.passes.transposes import channel_last_ends
from edgec_compiler.source import SourceModel
from edgec_runtime.session import ModelTensor

IMAGE_RANK = 4
# How the converter names types that TFLite computes nothing with -> the type, and what to take.
_FOREIGN = {
    r"torch\.uint16\b": ("uint16", "int32"),
    r"torch\.uint32\b": ("uint32", "int64"),
    r"torch\.uint64\b": ("uint64", "int64"),
    r"\btorch\.float64\b|tensor<([0-9]+x)*f64>": ("float64", "float32"),
}


@dataclass(frozen=True, slots=True)
class FloatTflite:
    """A float TFLite model; `moved_*` number the inputs and outputs that became channel-last."""

    payload: bytes
    moved_inputs: tuple[int, ...]
    moved_outputs: tuple[int, ...]


def to_tflite(graph: fx.GraphModule, source: SourceModel) -> FloatTflite:
    """Return `graph` with every 4-D input and output in NHWC, turned from NCHW where need be.

    An end that the graph itself turns from or to NHWC, as models from TensorFlow do, is so already.

    Raises:
        ConversionError: the converter refuses an operator.
    """
    import litert_torch  # seconds to import, and only this needs it

    teach_layouts()
    _refuse_whole(graph)
    keep = source.channels_last
    turned = channel_last_ends(graph)
    inputs, outputs = (
        () if keep else tuple(i for i in _images(ends) if i not in known)
        for ends, known in zip((source.inputs, source.outputs), turned, strict=True)
    )
    example = tuple(
        x.permute(0, 2, 3, 1).contiguous() if i in inputs else x
        for i, x in enumerate(source.example())
    )
    wrapped: nn.Module = litert_torch.to_channel_last_io(
        graph, args=list(inputs), outputs=list(outputs)
    )
    try:
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            tempfile.TemporaryDirectory() as folder,
        ):
            warnings.simplefilter("ignore")  # the converter's notes to its own developers
            file = Path(folder) / "model.tflite"
            litert_torch.convert(wrapped, example).export(str(file))
            payload = file.read_bytes()
    except Exception as error:  # the converter's errors share no base class
        raise ConversionError(_account(error)) from error
    return FloatTflite(with_unique_names(payload), inputs, outputs)


def _refuse_whole(graph: fx.GraphModule) -> None:
    for node in graph.graph.nodes:
        op = WITHOUT_PARTS.get(node.target)
        if op is not None:
            raise ConversionError(_no_form(op))


def _account(error: Exception) -> str:
    """Return why the converter gave up, in our words where they are known."""
    missing = re.search(r"Lowering not found: aten\.(\w+)", str(error))
    if missing:
        return _no_form(missing[1].strip("_"))
    for pattern, (kind, instead) in _FOREIGN.items():
        if re.search(pattern, str(error)):
            return (
                f"TFLite does not compute with {kind}, which the model has: cast it to {instead} "
                "in the model, or choose a target that takes ONNX"
            )
    return f"litert-torch cannot convert the model: {_brief(error)}"


def _no_form(op: str) -> str:
    return (
        f"operator {op} has no form in TFLite: choose a target that takes ONNX, or cut the "
        "model before it, and do this step in the application"
    )


def _images(tensors: tuple[ModelTensor, ...]) -> tuple[int, ...]:
    return tuple(i for i, tensor in enumerate(tensors) if len(tensor.shape) == IMAGE_RANK)


def with_unique_names(payload: bytes) -> bytes:
    """Return the model with tensors named t0, t1, ...: statistics are kept by name."""
    model = tflite.parse(payload, "litert-torch's output")
    for graph in model.subgraphs:
        for index, tensor in enumerate(graph.tensors):
            tensor.name = f"t{index}".encode()
    return tflite.serialise(model)


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
