"""A captured graph as a float ONNX file, the same bytes every time."""

import warnings

import onnx
import onnx.version_converter
import onnxslim
import torch
from torch import fx

from edgec_compiler.composites import TRANSLATIONS
from edgec_compiler.composites.pools import with_whole_averages
from edgec_compiler.convert import layer_norm, older_forms, onnx_ends, pool_pads
from edgec_compiler.errors import ConversionError
from edgec_compiler.source import SourceModel

OPSET = 18  # what torch's exporter writes natively; older runtimes get it lowered


def to_onnx(graph: fx.GraphModule, source: SourceModel) -> onnx.ModelProto:
    """Return `graph` with the source's own input and output names.

    Raises:
        ConversionError: the exporter refuses an operator.
    """
    graph = with_whole_averages(graph)
    model = _exported(graph, source, optimize=True)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:  # its optimiser mixes up bounds of what is clipped twice
        model = _exported(graph, source, optimize=False)
    slim = onnxslim.slim(_plain(model))
    model = _plain(slim)
    pool_pads.fold(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _exported(graph: fx.GraphModule, source: SourceModel, *, optimize: bool) -> onnx.ModelProto:
    names = [one.name for one in (*source.inputs, *source.outputs)]
    model = _named(graph, source, names, optimize=optimize)
    if onnx_ends.is_mixed_up(model):
        ends = onnx_ends.own_names(source)
        model = _named(graph, source, list(ends), optimize=optimize)
        onnx_ends.rename(model, ends)
    return model


def _named(
    graph: fx.GraphModule, source: SourceModel, names: list[str], *, optimize: bool
) -> onnx.ModelProto:
    """Return `graph` with these names for its inputs, then its outputs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's notes to its own developers
            program = torch.onnx.export(
                graph,
                source.example(),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                custom_translation_table=dict(TRANSLATIONS),
                input_names=names[: len(source.inputs)],
                output_names=names[len(source.inputs) :],
                optimize=optimize,
            )
    except Exception as error:  # the exporter's errors share no base class
        raise ConversionError(f"torch cannot export the model to ONNX: {_brief(error)}") from error
    if program is None:
        raise ConversionError("torch exported nothing")
    model: onnx.ModelProto = program.model_proto
    return model


def lowered(model: onnx.ModelProto, max_opset: int | None) -> onnx.ModelProto:
    """Return `model` for a runtime whose newest opset is `max_opset`, with the same tensor names.

    Raises:
        ConversionError: an operator has no older form.
    """
    if max_opset is None or max_opset >= OPSET:
        return model
    if max_opset < layer_norm.FIRST_OPSET:
        model = layer_norm.write_layer_norms_out(model)
    try:
        apart = older_forms.set_aside(model) if max_opset >= older_forms.LEAST_OPSET else model
        older = onnx.version_converter.convert_version(apart, max_opset)
        older_forms.put_back(older)
        for node in older.graph.node:  # the converter leaves a newer attribute at its default
            spelled = [one for one in node.attribute if one.name == "noop_with_empty_axes"]
            if spelled and spelled[0].i == 0:
                node.attribute.remove(spelled[0])
        onnx.checker.check_model(older, full_check=True)
    except Exception as error:  # the converter's errors share no base class
        raise ConversionError(
            f"the target has ONNX opset {max_opset}; edgec writes {OPSET}, and the model cannot be "
            f"written in the older one: {str(error).strip().splitlines()[0].rpartition(': ')[2]}"
        ) from error
    return _plain(older)


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


def _brief(error: BaseException) -> str:
    error = error.__cause__ or error  # the exporter's own text is about how to debug torch
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
