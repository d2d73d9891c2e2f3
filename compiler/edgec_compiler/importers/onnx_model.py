"""ONNX files as source models."""

from dataclasses import replace
from pathlib import Path

from edgec_compiler.importers import onnx_file
from edgec_compiler.importers.onnx_module import build_module
from edgec_compiler.importers.shapes import Shapes
from edgec_compiler.source import SourceModel


def import_onnx(path: Path, shapes: Shapes) -> SourceModel:
    """Return the model in an ONNX file.

    Raises:
        ModelFileError: not such a file, damaged, too old or too new.
        UsageError: a free axis needs --shape.
        UnsupportedOperatorError: an operator cannot be expressed.
    """
    model, sha256, size = onnx_file.read_onnx(path)
    inputs = onnx_file.inputs_of(model, shapes)
    source = SourceModel(
        format="onnx",
        name=path.stem,
        sha256=sha256,
        size_bytes=size,
        inputs=inputs,
        outputs=(),
        operators=onnx_file.operators_of(model),
        module=None,
        payload=onnx_file.with_shapes(model, inputs),
    )
    example = dict(zip((tensor.name for tensor in inputs), source.example(), strict=True))
    module, outputs = build_module(model, example)
    return replace(source, module=module.eval(), outputs=outputs)
