"""Opens what a command is to run: a bundle, or a model file on its own runtime."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec_bundle.archive import is_bundle, open_bundle
from edgec_bundle.manifest import Manifest, Runtime
from edgec_compiler.cli.chatter import without_chatter
from edgec_compiler.errors import MissingExtraError, UsageError
from edgec_compiler.importers.shapes import Shapes, fixed_shape, parse_shapes, refuse_unknown
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.interface import Steps, interface_of, read_steps
from edgec_hardware_profiles import ProfileError, load
from edgec_runtime.classes import parse_labels
from edgec_runtime.errors import DataError
from edgec_runtime.pipeline import Pipeline, load_pipeline, open_pipeline
from edgec_runtime.session import ModelTensor, Session, load_session

_RUNTIMES = {"onnx": "onnxruntime", "tflite": "litert", "torch": "torch"}
_MICRO = "tflite-micro"


@without_chatter()
def open_bundle_pipeline(path: Path, *, threads: int = 1, optimise: bool | None = None) -> Pipeline:
    """Return the bundle at `path`, ready to run as its target would run it.

    What this machine cannot run is stood in for, as `stand_in` says. Graph optimisation is as the
    bundle was judged, unless `optimise` says otherwise.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    optimise = is_judged_as_served(manifest) if optimise is None else optimise
    if stand_in(manifest) is None:
        return open_pipeline(bundle, threads=threads, optimise=optimise)
    model = "reference" if manifest.has("reference") else "model"
    fmt = Path(manifest.entry(model).path).suffix.removeprefix(".")
    portable = dataclasses.replace(manifest, format=fmt, runtime=Runtime(_RUNTIMES[fmt]))
    return load_pipeline(
        portable,
        lambda role: bundle.read(model if role == "model" else role),
        threads=threads,
        optimise=optimise,
    )


def stand_in(manifest: Manifest) -> str | None:
    """Return what runs here in place of what the target runs; None if it is the same.

    An accelerator's own binary has a portable reference beside it, which any CPU runs. A
    microcontroller's runtime has no form for this machine, but LiteRT runs the same file.
    """
    if manifest.has("reference"):
        return (
            f"its model is {manifest.profile}'s own binary, which no CPU runs; the portable "
            "reference stands in for it"
        )
    if manifest.runtime.name == _MICRO:
        return f"{manifest.profile} runs it on TFLite Micro; here LiteRT interprets the same file"
    return None


def is_judged_as_served(manifest: Manifest) -> bool:
    """Return whether graph optimisation is on: not where this CPU's int8 kernels would saturate."""
    if manifest.format != "onnx":
        return True
    try:
        return load(manifest.profile).quantization.judged == "serving"
    except ProfileError:
        return True


def say_stand_in(path: Path) -> None:
    """Tell people, beside the results, what runs here in place of what the target runs."""
    said = stand_in(open_bundle(path).manifest) if is_bundle(path) else None
    if said is not None:
        print(f"edgec: {path}: {said}", file=sys.stderr, flush=True)


def open_any(
    path: str,
    steps: str | None,
    labels: str | None,
    *,
    shapes: Sequence[str] = (),
    threads: int = 1,
) -> Pipeline:
    """Return a bundle or a model file as a pipeline; all options but `threads` are for model files.

    Raises:
        UsageError: neither, or a bundle together with what is for model files.
    """
    wanted = parse_shapes(shapes)
    if is_bundle(Path(path)):
        if steps or labels or wanted:
            raise UsageError("a bundle brings its own --preprocessing, --labels and --shape")
        return open_bundle_pipeline(Path(path), threads=threads)
    kind, file, _ = kind_of(path)
    fmt = kind if kind in _RUNTIMES else "torch"
    torch = fmt == "torch"
    session = _torch_session(path, wanted) if torch else _session(file, fmt, threads)
    inputs = fixed(session.inputs, wanted)
    read = read_steps(Path(steps)) if steps else Steps()
    interface = interface_of(read, inputs, _outputs(session, inputs))
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


def fixed(inputs: Sequence[ModelTensor], wanted: Shapes) -> tuple[ModelTensor, ...]:
    """Return a model file's inputs with every axis fixed. Raises UsageError."""
    refuse_unknown(wanted, [tensor.name for tensor in inputs])
    return tuple(
        dataclasses.replace(one, shape=fixed_shape(one.name, one.shape, wanted)) for one in inputs
    )


@without_chatter()
def _session(file: Path, fmt: str, threads: int) -> Session:
    return load_session(file.read_bytes(), _RUNTIMES[fmt], threads=threads)


def _torch_session(path: str, shapes: Shapes) -> Session:
    """Return a torch program; only these need torch."""
    try:
        from edgec_compiler.importers import import_model
        from edgec_compiler.sessions import source_session

        return source_session(import_model(path, shapes))
    except ImportError as error:
        raise MissingExtraError("compiler", f"{path}: a torch model; running it") from error


def _outputs(session: Session, inputs: Sequence[ModelTensor]) -> dict[str, Any]:
    """Return what the model makes of zeros, one row."""
    made = session.run({one.name: np.zeros(one.shape, one.dtype) for one in inputs})
    return {tensor.name: made[tensor.name][:1] for tensor in session.outputs}


def _labels(path: str | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        return parse_labels(Path(path).read_bytes())
    except (OSError, DataError) as error:
        raise UsageError(f"--labels {path}: {error}") from error
