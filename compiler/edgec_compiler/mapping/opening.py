"""Opens what `edgec check` is given: a model file, or a bundle's portable model."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgec_bundle.archive import is_bundle, open_bundle
from edgec_compiler.errors import CompilerError, MissingExtraError, ModelFileError, UsageError
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.mapping.graph import Fact, ModelGraph, Operator, Tensor
from edgec_compiler.mapping.tflite_graph import read_tflite

_TIMEOUT_S = 300


class CheckError(CompilerError):
    """What the reading child process could not do, with its own exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def read_bytes(model: str) -> tuple[str, bytes]:
    """Return the format and the bytes of a model file, or of a bundle's portable model.

    Raises:
        UsageError: no such file, or a kind that has no operators to look at yet.
        ModelFileError: it is not a model.
    """
    path = Path(model)
    if is_bundle(path):
        bundle = open_bundle(path)
        role = "reference" if bundle.manifest.has("reference") else "model"
        suffix = Path(bundle.manifest.entry(role).path).suffix.removeprefix(".")
        return suffix, bundle.read(role)
    kind, file, _ = kind_of(model)
    if kind not in ("tflite", "onnx"):
        raise UsageError(
            f"{model}: only TFLite and ONNX files have operators of a target's kind: compile it "
            "(edgec compile), then check the bundle"
        )
    return kind, file.read_bytes()


def read_graph(model: str, shapes: Sequence[str] = ()) -> ModelGraph:
    """Return the operators of a model file or bundle, and the tensors between them.

    Args:
        model: a TFLite or ONNX file, or a bundle.
        shapes: NAME=1,3,224,224 of ONNX inputs with free sizes.

    Raises:
        UsageError, ModelFileError: see `read_bytes`.
        MissingExtraError: an ONNX file, and the extra `compiler` is not installed.
    """
    path = Path(model)
    if not is_bundle(path) and kind_of(model)[0] == "onnx":
        return _read_onnx(path, shapes)
    fmt, payload = read_bytes(model)
    if fmt == "onnx":
        with TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            file.write_bytes(payload)
            return _read_onnx(file, shapes)
    return read_tflite(payload, model)


def _read_onnx(path: Path, shapes: Sequence[str]) -> ModelGraph:
    command = [sys.executable, "-P", "-m", "edgec_compiler.mapping.onnx_graph", str(path), *shapes]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelFileError(f"{path}: not read within {_TIMEOUT_S} s") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ModelFileError(f"{path}: reading it crashed ({name}): a damaged ONNX file")
    if b"ModuleNotFoundError" in done.stderr:
        raise MissingExtraError("compiler", f"{path}: reading an ONNX file")
    try:
        raw = json.loads(done.stdout)
    except ValueError as error:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise ModelFileError(f"{path}: cannot be read: {' '.join(last)}") from error
    if "error" in raw:
        raise CheckError(raw["error"], raw["exit_code"])
    return _graph(raw)


def _graph(raw: dict[str, Any]) -> ModelGraph:
    tensors = tuple(
        Tensor(
            t["name"], t["dtype"], None if t["shape"] is None else tuple(t["shape"]), t["constant"]
        )
        for t in raw["tensors"]
    )
    operators = tuple(
        Operator(
            o["index"],
            o["op"],
            o["version"],
            tuple(o["inputs"]),
            tuple(o["outputs"]),
            {name: _fact(value) for name, value in o["facts"].items()},
        )
        for o in raw["operators"]
    )
    return ModelGraph(
        raw["format"], tensors, operators, tuple(raw["inputs"]), tuple(raw["outputs"])
    )


def _fact(value: Any) -> Fact:
    return tuple(value) if isinstance(value, list) else value
