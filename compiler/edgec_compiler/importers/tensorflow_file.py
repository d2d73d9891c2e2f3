"""Keras .h5 files and SavedModels: TensorFlow's own converter makes a float TFLite file of them.

TensorFlow is an extra of its own, and only these two old kinds need it. What comes out enters as a
TFLite file does, so only TFLite targets can be made of it.
"""

import hashlib
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

from edgec_compiler.errors import MissingExtraError, ModelFileError
from edgec_compiler.importers.shapes import Shapes
from edgec_compiler.importers.sniff import OLD_KERAS
from edgec_compiler.importers.tflite_file import source_of
from edgec_compiler.source import SourceModel

_MAX_FILES = 10_000


def import_tensorflow(path: Path, kind: str, shapes: Shapes) -> SourceModel:
    """Return the model in an .h5 file or a SavedModel folder.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        ModelFileError: damaged, or TensorFlow cannot convert it.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError("tensorflow", f"{path}: {OLD_KERAS[kind]}; reading it")
    sha256, size = _digest(path)
    payload = _convert(path, kind)
    return source_of(payload, shapes, str(path), path.stem, sha256, size)


def _digest(path: Path) -> tuple[str, int]:
    """Return the sha256 and size of a file, or of a folder's files with their names, in order."""
    if path.is_file():
        payload = path.read_bytes()
        return hashlib.sha256(payload).hexdigest(), len(payload)
    digest, size = hashlib.sha256(), 0
    files = sorted(one for one in path.rglob("*") if one.is_file())
    if len(files) > _MAX_FILES:
        raise ModelFileError(f"{path}: holds {len(files)} files, more than any SavedModel needs")
    for file in files:
        payload = file.read_bytes()
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(payload).digest())
        size += len(payload)
    return digest.hexdigest(), size


def _convert(path: Path, kind: str) -> bytes:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    tf: Any = importlib.import_module("tensorflow")
    try:
        with tempfile.TemporaryDirectory() as folder:
            saved = str(path) if kind == "savedmodel" else _exported(path, Path(folder))
            converter = tf.lite.TFLiteConverter.from_saved_model(saved)
            payload: bytes = converter.convert()
    except Exception as error:  # TensorFlow's errors share no base class
        raise ModelFileError(f"{path}: TensorFlow cannot convert it: {_brief(error)}") from error
    return payload


def _exported(path: Path, folder: Path) -> str:
    """Load an .h5 file, never running code that it holds, and return it as a SavedModel."""
    keras: Any = importlib.import_module("keras")
    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    saved = folder / "saved"
    model.export(str(saved), format="tf_saved_model", verbose=False)
    return str(saved)


def _brief(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
