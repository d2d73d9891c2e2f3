"""The door for models: each kind of file to its importer."""

from pathlib import Path

from edgec_compiler.errors import ModelFileError
from edgec_compiler.importers.shapes import Shapes
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.source import Quantisation, SourceModel

_TORCH_LACKS_MEMORY = "can't allocate memory"  # a RuntimeError like any other


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
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and _TORCH_LACKS_MEMORY not in str(error):
            raise
        given = [f"--shape {name}={','.join(map(str, size))}" for name, size in shapes.items()]
        shaped = f" at {', '.join(given)}" if given else ""
        raise ModelFileError(
            f"{path}: opening it{shaped} takes more memory than there is"
        ) from error


def own_quantisation_of(model: str) -> Quantisation | None:
    """Return what the file of a MODEL argument has as integers already (TFLite only)."""
    try:
        from edgec_compiler.importers.tflite_quantisation import own_quantisation
    except ImportError:  # without the extra `compiler`: compiling will say so
        return None
    return own_quantisation(Path(model))


def _import(kind: str, path: Path, factory: str | None, shapes: Shapes) -> SourceModel:
    if kind == "onnx":
        from edgec_compiler.importers.onnx_model import import_onnx

        return import_onnx(path, shapes)
    if kind == "tflite":
        from edgec_compiler.importers.tflite_file import import_tflite

        return import_tflite(path, shapes)
    if kind in ("keras", "h5"):
        from edgec_compiler.importers.keras_file import import_keras

        return import_keras(path, kind, shapes)
    if kind == "savedmodel":
        from edgec_compiler.importers.saved_model import import_saved_model

        return import_saved_model(path, shapes)
    from edgec_compiler.importers import torch_file

    if factory is not None:
        return torch_file.import_factory(path, factory, shapes)
    return torch_file.import_program(path, shapes)
