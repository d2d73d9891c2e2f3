"""The door for models: each kind of file to its importer."""

from pathlib import Path

from edgec_compiler.importers.shapes import Shapes
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.source import SourceModel


def import_model(model: str, shapes: Shapes) -> SourceModel:
    """Return the model that a MODEL argument names, with every axis fixed.

    Raises:
        UsageError, ModelFileError, MissingExtraError: see `sniff.kind_of`.
        UnsupportedOperatorError: an ONNX operator cannot be expressed.
    """
    kind, path, factory = kind_of(model)
    if kind == "onnx":
        return _import_onnx(path, shapes)
    if kind == "tflite":
        from edgec_compiler.importers.tflite_file import import_tflite

        return import_tflite(path, shapes)
    from edgec_compiler.importers import torch_file

    if factory is not None:
        return torch_file.import_factory(path, factory, shapes)
    return torch_file.import_program(path, shapes)


def _import_onnx(path: Path, shapes: Shapes) -> SourceModel:
    from dataclasses import replace

    from edgec_compiler.importers import onnx_file, onnx_module

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
    module, outputs = onnx_module.build_module(model, example)
    return replace(source, module=module.eval(), outputs=outputs)
