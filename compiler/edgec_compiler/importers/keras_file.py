"""Keras files (.keras and .h5): rebuilt on Keras's torch backend, with none of their own code.

`keras_config` has refused, before Keras sees the file, whatever is not Keras's own. What Keras gets
is a copy that holds the weights and the checked configuration, in its own words, and nothing else.
"""

import hashlib
import importlib
import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from edgec_compiler.errors import MissingExtraError, ModelFileError, UsageError
from edgec_compiler.importers.batch_axes import lacking, notes_on, with_axis
from edgec_compiler.importers.keras_activations import compute_as_keras_2
from edgec_compiler.importers.keras_config import MEMBERS, WAY_OUT, is_of_keras_2, read_config
from edgec_compiler.importers.keras_recurrence import keep_whole
from edgec_compiler.importers.keras_words import Config
from edgec_compiler.importers.rows import Rows
from edgec_compiler.importers.shapes import Shapes, fixed_shape, refuse_unknown
from edgec_compiler.source import Operator, SourceModel
from edgec_runtime.session import ModelTensor

_UNKNOWN = re.compile(r"(?:Unknown \w+: |Could not locate \w+ )'([\w>]+)'")
_INSIDE = "Exception encountered: "  # Keras repeats a whole configuration before it


def import_keras(path: Path, kind: str, shapes: Shapes) -> SourceModel:
    """Return the model in a .keras file (`kind` "keras") or an .h5 file ("h5").

    Raises:
        MissingExtraError: Keras is not installed.
        ModelFileError: damaged, of another Keras, or with classes that are not Keras's own.
        UsageError: a free axis needs --shape.
    """
    model = _load(path, kind, read_config(path, kind))
    if is_of_keras_2(path, kind):
        compute_as_keras_2(model)
    keep_whole(model)
    example, inputs = _inputs(model, shapes)
    module = _Positional(model).eval()
    outputs = _outputs(module, example, model)
    places = lacking(inputs, outputs)
    payload = path.read_bytes()
    return SourceModel(
        format="keras",
        name=path.stem,
        sha256=hashlib.sha256(payload).hexdigest(),
        size_bytes=len(payload),
        inputs=with_axis(inputs, places.inputs),
        outputs=with_axis(outputs, places.outputs),
        operators=_operators(model),
        module=Rows(module, places) if any(places) else module,
        payload=None,
        notes=notes_on(inputs, outputs, places),
        channels_last=_is_channels_last(model),
    )


class _Positional(nn.Module):
    """A Keras model with its inputs and outputs in order."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return the model's outputs: one tensor, or a tuple of several."""
        made = self.model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)
        flat = _flat(made)
        return flat[0] if len(flat) == 1 else tuple(flat)


def _load(path: Path, kind: str, config: Config) -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    try:
        keras: Any = importlib.import_module("keras")
    except ImportError as error:
        raise MissingExtraError("keras", f"{path}: a Keras file; reading it") from error
    if keras.backend.backend() != "torch":
        raise ModelFileError(f"{path}: Keras already runs on {keras.backend.backend()} here")
    with TemporaryDirectory() as folder:
        copy = _checked_copy(path, kind, config, Path(folder))
        try:
            return keras.saving.load_model(copy, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises whatever its layers raise
            if unknown := _UNKNOWN.search(str(error)):
                raise ModelFileError(
                    f"{path}: needs the class {unknown[1]}, which is not Keras's own: {WAY_OUT}"
                ) from error
            raise ModelFileError(f"{path}: Keras cannot load it: {_brief(error)}") from error


def _checked_copy(path: Path, kind: str, config: Config, folder: Path) -> Path:
    """Write the weights of a file with `config`, the suffix being what Keras goes by."""
    copy = folder / f"model.{kind}"
    if kind == "h5":
        h5py: Any = importlib.import_module("h5py")
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        return copy
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as out:
        for name in MEMBERS:
            if name == "config.json":
                out.writestr(name, json.dumps(config))
                continue
            with archive.open(name) as source, out.open(name, "w", force_zip64=True) as sink:
                shutil.copyfileobj(source, sink)
    return copy


def _inputs(model: Any, shapes: Shapes) -> tuple[list[torch.Tensor], tuple[ModelTensor, ...]]:
    declared = getattr(model, "inputs", None)
    if not declared:
        raise UsageError(
            f"the model {model.name} does not say what its inputs are: build it before saving"
        )
    refuse_unknown(shapes, [one.name for one in declared])
    found = [
        ModelTensor(one.name, str(one.dtype), fixed_shape(one.name, list(one.shape), shapes))
        for one in declared
    ]
    draw = torch.Generator().manual_seed(0)
    example = [
        torch.rand(one.shape, generator=draw).to(getattr(torch, one.dtype))
        if "float" in one.dtype
        else torch.zeros(one.shape, dtype=getattr(torch, one.dtype))
        for one in found
    ]
    return example, tuple(found)


def _outputs(module: nn.Module, example: list[torch.Tensor], model: Any) -> tuple[ModelTensor, ...]:
    try:
        with torch.no_grad():
            made = module(*example)
    except Exception as error:  # a layer of Keras fails in its own way
        raise ModelFileError(f"the model fails on its example input: {_brief(error)}") from error
    results = list(made) if isinstance(made, tuple) else [made]
    names = list(getattr(model, "output_names", None) or [])
    if len(set(names)) != len(results):
        names = ["output"] if len(results) == 1 else [f"output_{i}" for i in range(len(results))]
    return tuple(
        ModelTensor(name, str(x.dtype).removeprefix("torch."), tuple(x.shape))
        for name, x in zip(names, results, strict=True)
    )


def _operators(model: Any) -> tuple[Operator, ...]:
    """Return the layers that compute, models in models laid open."""
    layers = [one for one in model._flatten_layers() if not _is_container(one)]
    return tuple(Operator(i, type(one).__name__, one.name) for i, one in enumerate(layers))


def _is_container(layer: Any) -> bool:
    return bool(getattr(layer, "layers", None)) or type(layer).__name__ == "InputLayer"


def _is_channels_last(model: Any) -> bool:
    formats = {getattr(layer, "data_format", None) for layer in model._flatten_layers()}
    return "channels_first" not in formats


def _flat(made: Any) -> list[torch.Tensor]:
    if isinstance(made, torch.Tensor):
        return [made]
    values = made.values() if isinstance(made, dict) else made
    return [tensor for value in values for tensor in _flat(value)]


def _brief(error: Exception) -> str:
    lines = str(error).rpartition(_INSIDE)[2].strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
