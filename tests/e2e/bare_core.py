"""Run by the bare environment: a bundle of each runtime proves itself in a child process.

Takes the repository's folder; prints the runtimes that passed, and "ok".
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgec_bundle.digest import sha256_hex
from edgec_bundle.manifest import FileEntry, Limits, Manifest, Requires, Runtime, TensorSpec
from edgec_runtime import load_pipeline, record_golden, run_selftest

TO_UNIT = {"op": "scale", "std": 255}
INT8 = {"scale": 0.003921568859368563, "zero_point": -128}  # of the fixture, at both ends


def main(repository: Path) -> int:
    rng = np.random.default_rng(0)
    fixtures = repository / "tests" / "runtime" / "fixtures"
    digits = Manifest(
        schema=1,
        model="digits",
        version="1.0.0",
        release=1,
        profile="generic-arm64",
        format="onnx",
        runtime=Runtime("onnxruntime", "1.20.0", "cpu"),
        files=(),
        inputs=(TensorSpec("image", "uint8", (-1, 32, 32, 1), "image"),),
        outputs=(TensorSpec("scores", "float32", (-1, 10), "scores"),),
        preprocessing=(
            {"op": "scale", "mean": 127.5, "std": 127.5},
            {"op": "layout", "from": "NHWC", "to": "NCHW"},
        ),
        limits=Limits(),
        requires=Requires(),
    )
    quadrants = replace(
        digits,
        model="quadrants",
        format="tflite",
        runtime=Runtime("litert", "1.0.0", "cpu"),
        inputs=(TensorSpec("image", "uint8", (-1, 4, 4, 1), "image"),),
        outputs=(TensorSpec("means", "float32", (-1, 4), "scores"),),
        preprocessing=(TO_UNIT, {"op": "quantize", "dtype": "int8", **INT8}),
        postprocessing=({"op": "dequantize", **INT8},),
    )
    for manifest, model in (
        (digits, repository / "models" / "digits" / "1.0.0.onnx"),
        (quadrants, fixtures / "quadrants_int8.tflite"),
    ):
        _, *shape = manifest.inputs[0].shape
        images = rng.integers(0, 256, (8, *shape)).astype(np.uint8)
        prove(manifest, model.read_bytes(), images)
    print("ok")
    return 0


def prove(manifest: Manifest, model: bytes, images: np.ndarray) -> None:
    """Record golden samples here, and check them in a child process as a device does."""
    blobs = {"model": model}
    plain = replace(manifest, files=entries(blobs))
    pipeline = load_pipeline(plain, blobs.__getitem__)
    blobs["golden"], golden = record_golden(pipeline, {"image": images}, 4, tolerance=1e-3)
    full = replace(manifest, files=entries(blobs), golden=golden)
    result = run_selftest(full, blobs)
    if not result.passed:
        sys.exit(f"{manifest.model}: {result}")
    print(manifest.runtime.name)


def entries(blobs: dict[str, bytes]) -> tuple[FileEntry, ...]:
    return tuple(
        FileEntry(role, f"{role}.bin", len(data), sha256_hex(data)) for role, data in blobs.items()
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
