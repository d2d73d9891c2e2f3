"""One loaded model: named tensors in, named tensors out, nothing else.

A session knows neither preprocessing nor labels: that is the pipeline's business. Models are
loaded from bytes, never from a path, so that they can lie encrypted behind a blob store.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec_runtime.errors import RuntimeMissingError

Array = npt.NDArray[Any]

# runtime -> the distributions that provide it, best first
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "litert": ("ai-edge-litert", "tflite-runtime"),
}
RUNTIMES = tuple(_DISTRIBUTIONS)


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """An input or output of the model file itself."""

    name: str
    dtype: str  # numpy's name: "float32", "uint8" ...
    shape: tuple[int, ...]  # -1: free
    scale: float | None = None  # of an 8- or 16-bit tensor quantised per tensor (TFLite)
    zero_point: int | None = None


class Session(Protocol):
    """One loaded model. `run` may be called from several threads at once."""

    @property
    def inputs(self) -> tuple[ModelTensor, ...]:
        """The model's inputs, in the file's order."""

    @property
    def outputs(self) -> tuple[ModelTensor, ...]:
        """The model's outputs, in the file's order."""

    @property
    def delegates(self) -> tuple[str, ...]:
        """What executes the model, preferred first: "cpu", "xnnpack", "cuda" ..."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output for exactly the model's inputs, of their dtypes and shapes.

        Raises:
            ModelError: the runtime refuses the feeds or fails.
        """

    def close(self) -> None:
        """Release the model. Further runs raise ModelError; a run under way ends normally."""


def load_session(
    model: bytes,
    runtime: str,
    *,
    threads: int = 1,
    delegate: str = "cpu",
    optimise: bool = True,
) -> Session:
    """Load `model` into `runtime` ("onnxruntime" or "litert").

    Args:
        model: the whole ONNX or TFLite file.
        runtime: one of RUNTIMES.
        threads: how many threads one inference may use, at least 1.
        delegate: what shall execute it ("cpu", "xnnpack", "edgetpu", "ethosu", "vx", "cuda",
            "qnn", "tensorrt"). An absent accelerator falls back to the CPU with a logged warning;
            `Session.delegates` tells what came of it.
        optimise: False computes exactly what the file says (ONNX Runtime without graph
            optimisation, LiteRT without XNNPACK): slower, and right where an x86 CPU's int8
            kernels saturate.

    Raises:
        RuntimeMissingError: the runtime is not installed, or not known.
        ModelError: these bytes are not a model that it can run.
    """
    if threads < 1:
        raise ValueError(f"expected at least 1 thread, got {threads}")
    # Imported here: a device needs only the runtime that it uses, and each costs memory.
    if runtime == "onnxruntime":
        from edgec_runtime.backends.onnx import OnnxSession

        return OnnxSession(model, threads=threads, delegate=delegate, optimise=optimise)
    if runtime == "litert":
        from edgec_runtime.backends.litert import LiteRtSession

        return LiteRtSession(model, threads=threads, delegate=delegate, optimise=optimise)
    raise RuntimeMissingError(runtime, None, None)


def installed_runtimes() -> dict[str, str]:
    """Return {runtime: version} of what is installed, without importing any.

    tflite-runtime 2.14 counts as litert 0.14.0: it is the older line of the same runtime.
    """
    found = {}
    for runtime, distributions in _DISTRIBUTIONS.items():
        for name in distributions:
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
            found[runtime] = "0." + version.partition(".")[2] if name[:6] == "tflite" else version
            break
    return found


def require_runtime(runtime: str, min_version: str) -> None:
    """Return if `runtime` is installed in `min_version` or newer.

    Raises:
        RuntimeMissingError: absent, or too old.
    """
    found = installed_runtimes().get(runtime)
    if found is None or _version(found) < _version(min_version):
        raise RuntimeMissingError(runtime, min_version, found)


def _version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of "1.18.0rc1" as (1, 18, 0)."""
    numbers = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits or 0))
        if digits != part:
            break
    return tuple([*numbers, 0, 0, 0][:3])


def check_feeds(inputs: tuple[ModelTensor, ...], feeds: Mapping[str, Array]) -> str | None:
    """Return what is wrong with `feeds` for these model inputs, or None."""
    if feeds.keys() != {tensor.name for tensor in inputs}:
        return f"expected tensors {[t.name for t in inputs]}, got {sorted(feeds)}"
    for tensor in inputs:
        value = feeds[tensor.name]
        if value.dtype != np.dtype(tensor.dtype):
            return f"tensor '{tensor.name}': expected {tensor.dtype}, got {value.dtype}"
        fits = len(value.shape) == len(tensor.shape) and all(
            want in (-1, got) for want, got in zip(tensor.shape, value.shape, strict=True)
        )
        if not fits:
            return f"tensor '{tensor.name}': expected {tensor.shape}, got {value.shape}"
    return None
