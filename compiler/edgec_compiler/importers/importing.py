"""The door for models: each kind of file to its importer."""

from pathlib import Path

from edgec_compiler.errors import ModelFileError
from edgec_compiler.importers.shapes import Shapes
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.source import SourceModel


def import_model(model: str, shapes: Shapes) -> SourceModel:
    """Return the model that a MODEL argument names, with every axis fixed.

    Native libraries open the file here: `isolated` sees to it that this happens in a child.

    Raises:
        UsageError, ModelFileError, MissingExtraError: see `sniff.kind_of`.
        UnsupportedOperatorError: an ONNX operator cannot be expressed.
    """
    kind, path, factory = kind_of(model)
    try:
        return _import(kind, path, factory, shapes)
    except RecursionError as error:
        raise ModelFileError(f"{path}: nested deeper than any honest model") from error
    except MemoryError as error:
        raise ModelFileError(f"{path}: opening it takes more memory than there is") from error


def is_quantised_model(model: str) -> bool:
    """Return whether a MODEL argument names a file that is quantised already (TFLite only)."""
    try:
        from edgec_compiler.importers.tflite_file import is_quantised_file
    except ImportError:  # without the extra `compiler`: compiling will say so
        return False
    return is_quantised_file(Path(model))


def _import(kind: str, path: Path, factory: str | None, shapes: Shapes) -> SourceModel:
    if kind == "onnx":
        from edgec_compiler.importers.onnx_model import import_onnx

        return import_onnx(path, shapes)
    if kind == "tflite":
        from edgec_compiler.importers.tflite_file import import_tflite

        return import_tflite(path, shapes)
    if kind == "keras":
        from edgec_compiler.importers.keras_file import import_keras

        return import_keras(path, shapes)
    if kind in ("h5", "savedmodel"):
        from edgec_compiler.importers.tensorflow_file import import_tensorflow

        return import_tensorflow(path, kind, shapes)
    from edgec_compiler.importers import torch_file

    if factory is not None:
        return torch_file.import_factory(path, factory, shapes)
    return torch_file.import_program(path, shapes)
