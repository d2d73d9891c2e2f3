"""The configuration of a Keras file: read without Keras, and held to Keras's own classes.

A .keras file is an archive of a configuration and of weights in HDF5; an .h5 file is HDF5 as a
whole. The configuration may name any class of any Python module. Only Keras's own are taken,
before Keras itself sees the file; lambdas and wrapped modules, which hold code, are refused.
"""

import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

from edgec_compiler.errors import MissingExtraError, ModelFileError
from edgec_compiler.importers.keras_words import Config, in_keras_3
from edgec_compiler.importers.sniff import ZIP_ERRORS

MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
_MAX_CONFIG_BYTES = 64 << 20
_MAX_WEIGHTS_BYTES = 4 << 30
_MAX_GROWTH = 200  # times the archive's size: weights hardly shrink
_GROWTH_FREE = 64 << 20
_MAX_DEPTH = 60
_CODE_CLASSES = ("Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer")
# Functions of TensorFlow that were called on a model's tensors, as Keras 2 writes them.
_TENSORFLOW_CALLS = (
    *("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"),
    *("ClassMethod", "InstanceMethod", "InstanceProperty"),
)
WAY_OUT = "export it to ONNX instead: model.export('model.onnx', format='onnx')"
_WAY_OUT_OF_KERAS_2 = (
    "where it was made, save it as a SavedModel (tf.saved_model.save) or export it to ONNX "
    "(python -m tf2onnx.convert)"
)
_OLD_WEIGHTS = "_layer_checkpoint_dependencies"
# What h5py raises about damaged files.
_H5_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError)


def read_config(path: Path, kind: str) -> Config:
    """Return the configuration of a whole Keras file, in Keras 3's words.

    Args:
        path: of the file.
        kind: "keras" or "h5". HDF5's own library opens an .h5 file here: do it in a child process.

    Raises:
        MissingExtraError: an .h5 file, and what reads it is not installed.
        ModelFileError: damaged, too large, or with classes that are not Keras's own.
    """
    config = _in_archive(path) if kind == "keras" else _in_hdf5(path)
    if not isinstance(config, dict):
        raise ModelFileError(f"{path}: a damaged Keras file: its configuration is no object")
    _check_classes(config, path, 0)
    made: Config = in_keras_3(config)
    return made


def is_of_keras_2(path: Path, kind: str) -> bool:
    """Return whether a Keras file that `read_config` has taken says it is of Keras 2 or older.

    An .h5 file that names no version is: Keras 1 named none.

    Raises:
        ModelFileError: what says it is damaged.
    """
    if kind == "keras":
        try:
            with zipfile.ZipFile(path) as archive:
                said = json.loads(archive.read("metadata.json"))
        except ZIP_ERRORS as error:
            raise ModelFileError(
                f"{path}: a damaged .keras file: metadata.json: {error}"
            ) from error
        version = said.get("keras_version") if isinstance(said, dict) else None
    else:
        h5py: Any = importlib.import_module("h5py")
        with h5py.File(path, "r") as file:
            version = file.attrs.get("keras_version", "1")
    if isinstance(version, bytes):
        version = version.decode("utf-8", "replace")
    return str(version).startswith(("1", "2."))


def _in_archive(path: Path) -> Any:
    """Return config.json; every member of the archive that is used is sound."""
    most = dict(zip(MEMBERS, (_MAX_CONFIG_BYTES,) * 2 + (_MAX_WEIGHTS_BYTES,), strict=True))
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            for name, limit in most.items():
                if sizes.get(name, limit + 1) > limit:
                    raise ModelFileError(f"{path}: {name} is missing or too large")
            if sum(sizes.values()) > _GROWTH_FREE + _MAX_GROWTH * path.stat().st_size:
                raise ModelFileError(
                    f"{path}: would unpack to {sum(sizes.values())} bytes, which no weights do"
                )
            if (bad := archive.testzip()) is not None:
                raise ModelFileError(f"{path}: {bad} is damaged")
            return json.loads(archive.read("config.json"))
    except RecursionError as error:
        raise ModelFileError(f"{path}: its configuration is nested too deep") from error
    except ZIP_ERRORS as error:
        raise ModelFileError(f"{path}: a damaged .keras file: {error}") from error


def _in_hdf5(path: Path) -> Any:
    """Return the configuration that an .h5 file has as an attribute."""
    try:
        h5py: Any = importlib.import_module("h5py")
    except ImportError as error:
        raise MissingExtraError("keras", f"{path}: a Keras .h5 file; reading it") from error
    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get("model_config")
            weights = "layer_names" in file.attrs or "layers" in file or _OLD_WEIGHTS in file
    except _H5_ERRORS as error:
        raise ModelFileError(f"{path}: a damaged .h5 file: {error}") from error
    if text is None and weights:
        raise ModelFileError(
            f"{path}: holds weights without the model that they belong to: save the whole model "
            "(model.save, not model.save_weights)"
        )
    if text is None:
        raise ModelFileError(f"{path}: an HDF5 file without a Keras model in it")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ModelFileError(f"{path}: its configuration is nested too deep") from error
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"{path}: a damaged .h5 file: {error}") from error


def _check_classes(value: Any, path: Path, depth: int) -> None:
    """Refuse every class and function that is not Keras's own, at any depth."""
    if depth > _MAX_DEPTH:
        raise ModelFileError(f"{path}: its configuration is nested too deep")
    if isinstance(value, dict):
        _check_class(value, path)
        for inner in value.values():
            _check_classes(inner, path, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_classes(inner, path, depth + 1)


def _check_class(value: dict[str, Any], path: Path) -> None:
    name, module = value.get("class_name"), value.get("module")
    if name is None:
        return
    if name in _CODE_CLASSES or name == "__lambda__":
        raise ModelFileError(
            f"{path}: holds a {str(name).strip('_')}, whose code is never run: {WAY_OUT}"
        )
    if name in _TENSORFLOW_CALLS:
        inside = value.get("config")
        called = inside.get("name") if isinstance(inside, dict) else None
        raise ModelFileError(
            f"{path}: calls TensorFlow itself ({called or name}): {_WAY_OUT_OF_KERAS_2}"
        )
    own = module is None or (
        isinstance(module, str)
        and (module in ("keras", "builtins") or module.startswith(("keras.", "tf_keras.")))
    )
    if not own or ">" in str(name) or value.get("registered_name") not in (None, name):
        shown = name if module is None else f"{module}.{name}"
        raise ModelFileError(
            f"{path}: needs the class {shown}, which is not Keras's own: {WAY_OUT}"
        )


def facts_of(config: Config) -> dict[str, Any]:
    """Return what `edgec inspect` shows: inputs, and layers as operators."""
    inputs = [
        {
            "name": str(layer["config"].get("name", "")),
            "dtype": _dtype(layer["config"].get("dtype")),
            "shape": ["?" if n is None else n for n in layer["config"].get("batch_shape") or []],
        }
        for layer in _layers(config)
        if layer.get("class_name") == "InputLayer" and isinstance(layer.get("config"), dict)
    ]
    operators = [
        {"index": i, "op": str(layer["class_name"]), "output": str(layer["config"].get("name", ""))}
        for i, layer in enumerate(_computing(config))
    ]
    return {"inputs": inputs, "outputs": [], "operators": operators}


def _layers(model: Config) -> list[Config]:
    """Return the layers of a model's configuration in order; none for a layer's."""
    inside = model.get("config")
    listed = inside.get("layers") if isinstance(inside, dict) else None
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _computing(model: Config) -> list[Config]:
    """Return the layers that compute, models in models laid open."""
    if inside := _layers(model):
        return [one for layer in inside for one in _computing(layer)]
    computes = "class_name" in model and isinstance(model.get("config"), dict)
    return [model] if computes and model["class_name"] != "InputLayer" else []


def _dtype(value: Any) -> str:
    policy = value.get("config") if isinstance(value, dict) else None
    return str(policy.get("name", "?")) if isinstance(policy, dict) else str(value or "?")
