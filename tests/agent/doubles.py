"""Bundles of tiny real models for both runtimes: y = 2 * (x - offset), on rows of four numbers.

The offset is a preprocessing step, so that every version can answer differently, and what came
out tells which version ran.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgec_agent.host import ModelHost
from edgec_agent.limits import Limits
from edgec_agent.serving import Serving
from edgec_bundle.digest import sha256_hex
from edgec_bundle.histograms import Histogram
from edgec_bundle.manifest import FileEntry, Manifest, Runtime, TensorSpec

MODELS = Path(__file__).parent / "models"
RUNTIMES = ("onnxruntime", "litert")
X = TensorSpec("x", "float32", (-1, 4), "values")
Y = TensorSpec("y", "float32", (-1, 4), "values")
SCORES = replace(Y, meaning="scores")
FAILING = np.float32(3e38)  # doubled it is infinite, which softmax refuses
INFER = "/v2/models/double/infer"
LIMITS = Limits(
    header_bytes=4096,
    body_bytes=200_000,
    in_flight_bytes=500_000,
    connections=8,
    idle_s=240,
    header_s=240,
    body_s=240,
)
LABELS = b"ant\nbee\ncat\ndog\n"


@dataclass(frozen=True)
class Bundle:
    manifest: Manifest
    blobs: Mapping[str, bytes]

    def read(self, role: str) -> bytes:
        return self.blobs[role]


def bundle(
    version: str = "1.0.0",
    *,
    model: str = "double",
    runtime: str = "onnxruntime",
    offset: float | Sequence[float] = 0.0,
    x: TensorSpec = X,
    y: TensorSpec = SCORES,
    preprocessing: Sequence[Mapping[str, Any]] = (),
    postprocessing: Sequence[Mapping[str, Any]] = (),
    labels: bytes = LABELS,
    watched: bool = False,
) -> Bundle:
    """Return a bundle of `model` for `runtime` that computes 2 * (x - offset)."""
    kind = "onnx" if runtime == "onnxruntime" else "tflite"
    blobs = {"model": (MODELS / f"double.{kind}").read_bytes(), "labels": labels}
    edges = {"input.x.mean": (-2.0, 0.0, 2.0), "class": (-0.5, 0.5, 1.5, 2.5, 3.5)}
    baseline = {name: Histogram.empty(e).to_dict() for name, e in edges.items()} if watched else {}
    manifest = Manifest(
        model=model,
        version=version,
        release=1,
        profile="test",
        format=kind,
        runtime=Runtime(runtime, "0.1.0", "cpu"),
        files=tuple(
            FileEntry(role, f"{role}.bin", len(data), sha256_hex(data))
            for role, data in blobs.items()
        ),
        inputs=(x,),
        outputs=(y,),
        preprocessing=(*preprocessing, {"op": "scale", "mean": offset}),
        postprocessing=tuple(postprocessing),
        baseline=baseline,
    )
    return Bundle(manifest, blobs)


def rows(count: int = 1, seed: int = 0) -> np.ndarray:
    """Return float32 [count, 4] of whole numbers, exact in every arithmetic used here."""
    return np.random.default_rng(seed).integers(-9, 9, (count, 4)).astype(np.float32)


def wait_until(happened: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Return once `happened()`; fail if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def load(host: ModelHost, version: str = "1.0.0", **options: Any) -> Serving:
    """Put a bundle of `options` into service."""
    made = bundle(version, **options)
    serving = host.load(made.manifest, made.read)
    host.activate(made.manifest.model, serving)
    return serving
