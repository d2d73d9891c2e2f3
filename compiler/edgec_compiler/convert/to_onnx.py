"""A captured graph as a float ONNX file, the same bytes every time."""

import warnings

import onnx
import onnxslim
import torch
from torch import fx

from edgec_compiler.errors import ConversionError
from edgec_compiler.source import SourceModel

OPSET = 18  # what torch's exporter writes natively; every ONNX Runtime of a profile has it


def to_onnx(graph: fx.GraphModule, source: SourceModel, max_opset: int | None) -> onnx.ModelProto:
    """Return `graph` with the source's own input and output names.

    Raises:
        ConversionError: the exporter refuses an operator, or the target has only older opsets.
    """
    if max_opset is not None and max_opset < OPSET:
        raise ConversionError(f"the target has ONNX opset {max_opset}; edgec writes {OPSET}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notes to its own developers
            program = torch.onnx.export(
                graph,
                source.example(),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[tensor.name for tensor in source.inputs],
                output_names=[tensor.name for tensor in source.outputs],
            )
    except Exception as error:  # the exporter's errors share no base class
        raise ConversionError(f"torch cannot export the model to ONNX: {_brief(error)}") from error
    if program is None:
        raise ConversionError("torch exported nothing")
    slim = onnxslim.slim(_plain(program.model_proto))
    model = _plain(slim)
    onnx.checker.check_model(model, full_check=True)
    return model


def serialise(model: onnx.ModelProto) -> bytes:
    """Return the bytes of `model`; equal models give equal bytes."""
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload


def _plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` without what torch notes about the machine that exported it."""
    graph = model.graph
    for holder in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")
    model.producer_name, model.producer_version = "edgec", ""
    return model


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
