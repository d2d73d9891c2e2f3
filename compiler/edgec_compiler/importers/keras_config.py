"""The configuration of a .keras file: read without Keras, and held to Keras's own classes.

A .keras file is an archive of a configuration and of weights in HDF5. The configuration may name
any class of any Python module. Only Keras's own are taken, before Keras itself sees the file;
lambdas and wrapped modules, which hold code, are refused.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from edgec_compiler.errors import ModelFileError
from edgec_compiler.importers.sniff import ZIP_ERRORS

_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
_MAX_CONFIG_BYTES = 64 << 20
_MAX_WEIGHTS_BYTES = 4 << 30
_MAX_DEPTH = 60
_CODE_CLASSES = ("Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer")
_WAY_OUT = "export it to ONNX instead: model.export('model.onnx', format='onnx')"

Config = dict[str, Any]


def read_config(path: Path) -> Config:
    """Return the configuration of a whole .keras file that names Keras's own classes only.

    Raises:
        ModelFileError: damaged, too large, or with other classes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            for name, most in zip(
                _MEMBERS, (_MAX_CONFIG_BYTES,) * 2 + (_MAX_WEIGHTS_BYTES,), strict=True
            ):
                if sizes.get(name, most + 1) > most:
                    raise ModelFileError(f"{path}: {name} is missing or too large")
            if (bad := archive.testzip()) is not None:
                raise ModelFileError(f"{path}: {bad} is damaged")
            config = json.loads(archive.read("config.json"))
    except ZIP_ERRORS as error:
        raise ModelFileError(f"{path}: a damaged .keras file: {error}") from error
    if not isinstance(config, dict):
        raise ModelFileError(f"{path}: a damaged .keras file: its config.json is no object")
    _check_classes(config, path, 0)
    return config


def _check_classes(value: Any, path: Path, depth: int) -> None:
    """Refuse every class and function that is not Keras's own, at any depth."""
    if depth > _MAX_DEPTH:
        raise ModelFileError(f"{path}: its config.json is nested too deep")
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
            f"{path}: holds a {str(name).strip('_')}, whose code is never run: {_WAY_OUT}"
        )
    own = module is None or (
        isinstance(module, str) and (module in ("keras", "builtins") or module.startswith("keras."))
    )
    if not own or value.get("registered_name") not in (None, name):
        raise ModelFileError(
            f"{path}: needs the class {module}.{name}, which is not Keras's own: {_WAY_OUT}"
        )


def facts_of(config: Config) -> dict[str, Any]:
    """Return what `edgec inspect` shows: inputs, and layers as operators."""
    layers = _layers(config)
    inputs = [
        {
            "name": str(layer["config"].get("name", "")),
            "dtype": _dtype(layer["config"].get("dtype")),
            "shape": ["?" if n is None else n for n in layer["config"].get("batch_shape") or []],
        }
        for layer in layers
        if layer.get("class_name") == "InputLayer"
    ]
    computing = [layer for layer in layers if layer.get("class_name") != "InputLayer"]
    operators = [
        {"index": i, "op": str(layer["class_name"]), "output": str(layer["config"].get("name", ""))}
        for i, layer in enumerate(computing)
    ]
    return {"inputs": inputs, "outputs": [], "operators": operators}


def _layers(model: Any) -> list[Config]:
    """Return the layers of a model's configuration in order."""
    inside = model.get("config") if isinstance(model, dict) else None
    listed = inside.get("layers") if isinstance(inside, dict) else None
    if not isinstance(listed, list):
        return [model] if isinstance(inside, dict) and "class_name" in model else []
    return [one for layer in listed for one in _layers(layer)]


def _dtype(value: Any) -> str:
    policy = value.get("config") if isinstance(value, dict) else None
    return str(policy.get("name", "?")) if isinstance(policy, dict) else str(value or "?")
