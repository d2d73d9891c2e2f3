"""Tells what a model file is from its first bytes; what is not taken is refused with a way out."""

import re
import zipfile
import zlib
from pathlib import Path
from typing import NoReturn

from edgec_compiler.errors import ModelFileError, UsageError

KINDS = ("onnx", "torch", "factory", "tflite", "keras", "h5", "savedmodel")
# What zipfile raises about damaged archives: features that it lacks and passwords included.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    OSError,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
)
_HDF5 = b"\x89HDF\r\n\x1a\n"
_LFS = b"version https://git-lfs"
_PICKLES = tuple(bytes((0x80, protocol)) for protocol in range(2, 6))
_EXPORT_ONNX = "export it to ONNX (for TensorFlow: python -m tf2onnx.convert), or to .tflite"
_EXPORT_TORCH = (
    "save it as torch.export.save(torch.export.export(model.eval(), inputs), 'model.pt2'), or name "
    "a Python file and function: model.py:factory"
)
_GRAPH_BYTES = 1 << 16
_GRAPH_WORDS = (b"Placeholder", b"Const", b"producer")
_TEXT_GRAPH = re.compile(rb"\s*(node|versions|library)\s*\{")


def kind_of(model: str) -> tuple[str, Path, str | None]:
    """Return (one of KINDS, file, factory function or None) of a MODEL argument.

    Raises:
        UsageError: there is no such file, or it is a pipe or a device.
        ModelFileError: it is not a model, or one of a kind that is refused.
    """
    path, _, factory = model.rpartition(":")
    if path.endswith(".py") and factory.isidentifier():
        if not Path(path).is_file():
            raise UsageError(f"{path}: no such file")
        return "factory", Path(path), factory
    file = Path(model)
    if file.is_dir():
        return _kind_of_folder(file), file, None
    if file.suffix == ".py" and file.is_file():
        raise UsageError(f"{model}: name the function that makes the model: {model}:factory")
    if file.exists() and not file.is_file():  # a pipe or a device may never end
        raise UsageError(f"{model}: expected a regular file")
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        raise UsageError(f"{model}: {error.strerror or 'cannot be read'}") from error
    return _kind_of_bytes(file, head), file, None


def _kind_of_folder(folder: Path) -> str:
    if (folder / "saved_model.pb").is_file():
        return "savedmodel"
    raise ModelFileError(f"{folder}: a folder without saved_model.pb, so no SavedModel")


def _kind_of_bytes(file: Path, head: bytes) -> str:
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"PK"):
        return _kind_of_zip(file)
    if head.startswith(_HDF5):
        return "h5"
    if head.startswith(_LFS):
        raise ModelFileError(f"{file}: a Git LFS pointer, not the model itself: run git lfs pull")
    if head.startswith(_PICKLES):
        raise ModelFileError(pickled_message(file))
    if head.startswith(b"\x0a") or _TEXT_GRAPH.match(head):  # no ONNX file starts like these
        _refuse_graph(file)
    if not head:
        raise ModelFileError(f"{file}: an empty file")
    if file.name == "saved_model.pb":
        raise ModelFileError(f"{file}: part of a SavedModel: name its folder, {file.parent}")
    if b"\x00" not in head and not any(byte < 9 for byte in head):
        raise ModelFileError(f"{file}: a text file, not a model")
    return "onnx"  # protobuf has no magic number; the reader tells


def _refuse_graph(file: Path) -> NoReturn:
    with file.open("rb") as stream:
        start = stream.read(_GRAPH_BYTES)
    if file.suffix in (".pb", ".pbtxt") or any(word in start for word in _GRAPH_WORDS):
        raise ModelFileError(
            f"{file}: a frozen TensorFlow 1 graph, which is not read: {_EXPORT_ONNX}"
        )
    raise ModelFileError(f"{file}: not a model of a known kind")


def _kind_of_zip(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except ZIP_ERRORS as error:
        raise ModelFileError(f"{file}: a damaged archive: {error}") from error
    if "metadata.json" in names and "model.weights.h5" in names:
        return "keras"
    if "metadata.json" in names and "config.json" in names:
        raise ModelFileError(
            f"{file}: a .keras file whose weights are not in model.weights.h5, the one form that "
            "is read: save it again with model.save('model.keras')"
        )
    if any("/code/" in name for name in names):
        raise ModelFileError(f"{file}: a TorchScript archive, which is not read: {_EXPORT_TORCH}")
    if "serialized_exported_program.json" in names:
        raise ModelFileError(
            f"{file}: an exported program of a torch before 2.8: export it again with torch 2.8 or "
            "newer"
        )
    if any(name.endswith("data.pkl") for name in names):
        raise ModelFileError(pickled_message(file))
    if any(name.endswith("archive_format") for name in names):
        return "torch"
    raise ModelFileError(f"{file}: an archive that holds no model")


def pickled_message(file: Path) -> str:
    """Return the refusal of pickled modules, with the way out."""
    return (
        f"{file}: holds a pickled module or its weights. A pickle can run any code when it is "
        f"opened, so it is never unpickled. {_EXPORT_TORCH[0].upper()}{_EXPORT_TORCH[1:]}"
    )
