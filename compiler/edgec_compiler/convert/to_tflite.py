"""A captured graph as a float TFLite file with channel-last images, the same bytes every time."""

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import fx, nn

from edgec_compiler import tflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.source import SourceModel
from edgec_runtime.session import ModelTensor

IMAGE_RANK = 4


@dataclass(frozen=True, slots=True)
class FloatTflite:
    """A float TFLite model; `moved_*` number the inputs and outputs that became channel-last."""

    payload: bytes
    moved_inputs: tuple[int, ...]
    moved_outputs: tuple[int, ...]


def to_tflite(graph: fx.GraphModule, source: SourceModel) -> FloatTflite:
    """Return `graph` with every 4-D input and output in NHWC, turned from NCHW where need be.

    Raises:
        ConversionError: the converter refuses an operator.
    """
    import litert_torch  # seconds to import, and only this needs it

    keep = source.channels_last
    inputs, outputs = (() if keep else _images(ends) for ends in (source.inputs, source.outputs))
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
        raise ConversionError(f"litert-torch cannot convert the model: {_brief(error)}") from error
    return FloatTflite(with_unique_names(payload), inputs, outputs)


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
