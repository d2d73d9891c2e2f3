"""Opens what a command is to run: a bundle, or a model file on its own runtime."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from edgec_bundle.archive import is_bundle, open_bundle
from edgec_bundle.manifest import Manifest, Runtime
from edgec_compiler.errors import MissingExtraError, UsageError
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.interface import Steps, interface_of, read_steps
from edgec_hardware_profiles import ProfileError, load
from edgec_runtime.classes import parse_labels
from edgec_runtime.errors import DataError
from edgec_runtime.pipeline import Pipeline, load_pipeline, open_pipeline
from edgec_runtime.session import ModelTensor, Session, load_session

_RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert", "torch": "torch"}


def open_bundle_pipeline(path: Path) -> Pipeline:
    """Return the bundle at `path`, ready to run as its target would run it.

    A bundle whose model is an accelerator's own binary runs by its portable reference.
    """
    bundle = open_bundle(path)
    manifest, optimise = bundle.manifest, is_judged_as_served(bundle.manifest)
    if not manifest.has("reference"):
        return open_pipeline(bundle, optimise=optimise)
    fmt = Path(manifest.entry("reference").path).suffix.removeprefix(".")
    portable = dataclasses.replace(manifest, format=fmt, runtime=Runtime(_RUNTIMES[fmt]))
    roles = {"model": "reference"}
    return load_pipeline(
        portable, lambda role: bundle.read(roles.get(role, role)), optimise=optimise
    )


def is_judged_as_served(manifest: Manifest) -> bool:
    """Return whether graph optimisation is on: not where this CPU's int8 kernels would saturate."""
    if manifest.format != "onnx":
        return True
    try:
        return load(manifest.profile).quantization.judged == "serving"
    except ProfileError:
        return True


def open_any(path: str, steps: str | None, labels: str | None) -> Pipeline:
    """Return a bundle or a model file as a pipeline; `steps` and `labels` are for model files.

    Raises:
        UsageError: neither, or a bundle together with steps or labels of its own.
    """
    if is_bundle(Path(path)):
        if steps or labels:
            raise UsageError("a bundle brings its own --preprocessing and --labels")
        return open_bundle_pipeline(Path(path))
    kind, file, _ = kind_of(path)
    fmt = kind if kind in _RUNTIMES else "torch"
    session = _torch_session(path) if fmt == "torch" else _session(file, fmt)
    read = read_steps(Path(steps)) if steps else Steps()
    interface = interface_of(read, session.inputs, _outputs(session))
    manifest = Manifest(
        model="model",
        version="0.0.0",
        release=1,
        profile="source",
        format=fmt,
        runtime=Runtime(_RUNTIMES[fmt]),
        inputs=interface.inputs,
        outputs=interface.outputs,
        preprocessing=interface.preprocessing,
        postprocessing=interface.postprocessing,
    )
    return Pipeline(manifest, session, _labels(labels))


def _session(file: Path, fmt: str) -> Session:
    return load_session(file.read_bytes(), _RUNTIMES[fmt])


def _torch_session(path: str) -> Session:
    """Return a torch program; only these need torch."""
    try:
        from edgec_compiler.importers import import_model
        from edgec_compiler.sessions import source_session

        return source_session(import_model(path, {}))
    except ImportError as error:
        raise MissingExtraError("compiler", f"{path}: a torch model; running it") from error


def _outputs(session: Session) -> dict[str, Any]:
    """Return what the model makes of zeros, one row."""
    made = session.run({tensor.name: _zeros(tensor) for tensor in session.inputs})
    return {tensor.name: made[tensor.name][:1] for tensor in session.outputs}


def _zeros(tensor: ModelTensor) -> Any:
    if any(size == -1 for size in tensor.shape[1:]):
        raise UsageError(
            f"input '{tensor.name}' has free axes {list(tensor.shape)}: compile it with --shape"
        )
    fixed = dataclasses.replace(tensor, shape=(max(tensor.shape[0], 1), *tensor.shape[1:]))
    return np.zeros(fixed.shape, fixed.dtype)


def _labels(path: str | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return parse_labels(Path(path).read_bytes())
    except (OSError, DataError) as error:
        raise UsageError(f"--labels {path}: {error}") from error
