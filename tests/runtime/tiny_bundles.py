"""Tiny bundles that the runtime's tests run, and what is needed to build more of them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgec_bundle.digest import sha256_hex
from edgec_bundle.manifest import FileEntry, Golden, Limits, Manifest, Requires, Runtime, TensorSpec

FIXTURES = Path(__file__).parent / "fixtures"
INT8 = {"scale": 0.003921568859368563, "zero_point": -128}  # of quadrants_int8.tflite, both ends
IMAGE = TensorSpec("image", "uint8", (-1, 4, 4, 1), "image")
MEANS = TensorSpec("means", "float32", (-1, 4), "scores")
TO_UNIT = {"op": "scale", "std": 255}


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    outputs: Mapping[str, tuple[int, Sequence[Any]]],
    constants: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    graph = helper.make_graph(
        list(nodes),
        "test",
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def quadrants_onnx(batch: int | str = "batch") -> bytes:
    """[N, 1, 4, 4] -> [N, 4]: the mean of each quadrant, as quadrants.tflite computes it."""
    return onnx_model(
        [
            helper.make_node(
                "AveragePool", ["pixels"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]
            ),
            helper.make_node("Flatten", ["pooled"], ["means"]),
        ],
        {"pixels": (TensorProto.FLOAT, [batch, 1, 4, 4])},
        {"means": (TensorProto.FLOAT, [batch, 4])},
    )


def manifest(
    blobs: Mapping[str, bytes],
    *,
    runtime: str = "onnxruntime",
    inputs: Sequence[TensorSpec] = (IMAGE,),
    outputs: Sequence[TensorSpec] = (MEANS,),
    preprocessing: Sequence[Mapping[str, Any]] = (),
    postprocessing: Sequence[Mapping[str, Any]] = (),
    golden: Golden | None = None,
    features: Sequence[str] = (),
    limits: Limits | None = None,
) -> Manifest:
    return Manifest(
        model="quadrants",
        version="1.0.0",
        release=1,
        profile="test",
        format="onnx" if runtime == "onnxruntime" else "tflite",
        runtime=Runtime(runtime, "0.1.0", "cpu"),
        files=tuple(
            FileEntry(role, f"{role}.bin", len(data), sha256_hex(data))
            for role, data in blobs.items()
        ),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        preprocessing=tuple(preprocessing),
        postprocessing=tuple(postprocessing),
        golden=golden,
        limits=limits or Limits(),
        requires=Requires(features=tuple(features)),
    )


def _variant(kind: str) -> tuple[dict[str, bytes], Manifest]:
    """Return blobs and manifest of the same public model, made for one runtime."""
    labels = b"top left\ntop right\nbottom left\nbottom right\n"
    if kind.startswith("onnx"):
        batch: int | str = {"onnx": "batch", "onnx_batch1": 1, "onnx_batch3": 3}[kind]
        blobs = {"model": quadrants_onnx(batch), "labels": labels}
        to_nchw = {"op": "layout", "from": "NHWC", "to": "NCHW"}
        return blobs, manifest(blobs, preprocessing=[TO_UNIT, to_nchw])
    blobs = {"model": (FIXTURES / f"{kind}.tflite").read_bytes(), "labels": labels}
    if kind == "quadrants":
        return blobs, manifest(blobs, runtime="litert", preprocessing=[TO_UNIT])
    return blobs, manifest(
        blobs,
        runtime="litert",
        preprocessing=[TO_UNIT, {"op": "quantize", "dtype": "int8", **INT8}],
        postprocessing=[{"op": "dequantize", **INT8}],
    )


VARIANTS = ("onnx", "onnx_batch1", "onnx_batch3", "quadrants", "quadrants_int8")
variant: Callable[[str], tuple[dict[str, bytes], Manifest]] = _variant


def images(rows: int, seed: int = 0) -> np.ndarray:
    """Return uint8 [rows, 4, 4, 1] in which quadrant row % 4 is clearly the brightest."""
    rng = np.random.default_rng(seed)
    batch = rng.integers(0, 90, (rows, 4, 4, 1)).astype(np.uint8)
    for row in range(rows):
        top, left = 2 * (row % 4 // 2), 2 * (row % 2)
        batch[row, top : top + 2, left : left + 2] += 120
    return batch


def expected_means(batch: np.ndarray) -> np.ndarray:
    quadrants = [
        batch[:, y : y + 2, x : x + 2].mean(axis=(1, 2, 3)) for y in (0, 2) for x in (0, 2)
    ]
    return np.stack(quadrants, axis=1).astype(np.float32) / 255
