"""SavedModel folders: TensorFlow's own converter makes a float TFLite file of one signature.

TensorFlow is an extra of its own, and only this kind needs it. What comes out enters as a TFLite
file does, so only TFLite targets can be made of it. TensorFlow gets a copy in which
`saved_model_safety` has left nothing that reaches outside of the model. Every shape is fixed before
the conversion: what would be lists of any length, for a free batch, is then plain tensors.
"""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgec_compiler import tflite
from edgec_compiler.errors import ModelFileError, UsageError
from edgec_compiler.importers.saved_model_folder import (
    chosen,
    digest_of,
    load_tensorflow,
    read_proto,
)
from edgec_compiler.importers.saved_model_safety import checked
from edgec_compiler.importers.shapes import Shapes, fixed_shape, refuse_unknown
from edgec_compiler.importers.tflite_file import source_of
from edgec_compiler.source import SourceModel

_FLEX = re.compile(r"Flex ops: ([\w, ]+)")
_FAILED = re.compile(r"error: '(?:tf\.)?(\w+)' op")
_LISTS = "TensorList"  # what a loop collects its results in
_TO_ONNX = "convert it to ONNX: python -m tf2onnx.convert --saved-model {path} --output model.onnx"
_UNROLLED = (
    "a loop, as of an LSTM or GRU, has no form in TFLite that is taken: give the model's .keras or "
    ".h5 file, which is unrolled, or build the layer with unroll=True"
)


def import_saved_model(path: Path, shapes: Shapes) -> SourceModel:
    """Return the model in a SavedModel folder: its signature `serving_default`, or its only one.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        ModelFileError: damaged, reaching outside of itself, or TensorFlow cannot convert it.
        UsageError: a free axis needs --shape.
    """
    tf = load_tensorflow(path)
    sha256, size = digest_of(path)
    proto = checked(read_proto(path), path)
    with TemporaryDirectory() as folder:
        copy = Path(folder)
        (copy / "saved_model.pb").write_bytes(proto.SerializeToString())
        for part in ("variables", "assets"):
            if (path / part).is_dir():
                (copy / part).symlink_to((path / part).resolve())
        payload = _converted(tf, copy, path, shapes)
    return source_of(payload, {}, str(path), path.resolve().stem, sha256, size)


def _converted(tf: Any, copy: Path, path: Path, shapes: Shapes) -> bytes:
    try:
        loaded = tf.saved_model.load(str(copy))
        signature = loaded.signatures[chosen(list(loaded.signatures), path)]
    except ModelFileError:
        raise
    except Exception as error:  # TensorFlow's errors share no base class
        raise ModelFileError(f"{path}: TensorFlow cannot load it: {_brief(error)}") from error
    specs = _specs(tf, signature.structured_input_signature[1], path, shapes)
    try:
        module = tf.Module()
        module.loaded = loaded

        def run(*given: Any) -> Any:
            return signature(**dict(zip(specs, given, strict=True)))

        module.run = tf.function(run, input_signature=list(specs.values()), autograph=False)
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [module.run.get_concrete_function()], module
        )
        payload: bytes = converter.convert()
    except Exception as error:  # TensorFlow's errors share no base class
        raise ModelFileError(f"{path}: {_why(error, path)}") from error
    return _named(payload, path)


def _specs(tf: Any, given: Any, path: Path, shapes: Shapes) -> dict[str, Any]:
    """Return each input's TensorSpec, every axis fixed."""
    refuse_unknown(shapes, list(given))
    specs = {}
    for name, spec in given.items():
        if spec.dtype == tf.string:
            raise ModelFileError(
                f"{path}: input '{name}' is a text, of which no target has tensors: prepare it "
                "before the model"
            )
        if spec.shape.rank is None and name not in shapes:
            raise UsageError(
                f"input '{name}' may have any number of axes: fix them with --shape {name}=1,..."
            )
        declared = shapes[name] if spec.shape.rank is None else spec.shape.as_list()
        fixed = fixed_shape(name, declared, shapes)
        specs[name] = tf.TensorSpec(fixed, spec.dtype, name=name)
    return specs


def _named(payload: bytes, path: Path) -> bytes:
    """Return a TFLite file whose ends have the names that the SavedModel's signature gives them."""
    model = tflite.parse(payload, str(path))
    if len(model.subgraphs) > 1:
        raise ModelFileError(f"{path}: {_UNROLLED}")
    ends = {
        one.tensorIndex: bytes(one.name)
        for signature in model.signatureDefs or ()
        for part in (signature.inputs, signature.outputs)
        for one in part or ()
    }
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        if index in ends:
            tensor.name = ends[index]
        elif bytes(tensor.name or b"") in ends.values():
            tensor.name = bytes(tensor.name) + b"_inner"
    return tflite.serialise(model)


def _why(error: Exception, path: Path) -> str:
    """Return what the converter could not do, and what to do instead."""
    text = str(error)
    flex = _FLEX.search(text)
    names = set(flex[1].split(", ") if flex else _FAILED.findall(text))
    if any(name.startswith(_LISTS) for name in names):
        return _UNROLLED
    if names:
        shown = ", ".join(sorted(name.removeprefix("Flex") for name in names))
        return f"TFLite has no form for TensorFlow's {shown}: {_TO_ONNX.format(path=path)}"
    return f"TensorFlow cannot convert it: {_brief(error)}"


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
