"""Pairs of model files for the delta benchmark: real ones at hand, and large ones made here.

Real: the releases of models/digits; the lab's pairs and published models, where a folder
``shared/data`` lies beside the checkout. Made: TFLite models with moved int8 weights, and models
as large as ResNet-50 whose weights have outlying values, channels of different size and kernels
that are smooth, moved as fine-tuning moves them: a rescaled channel (batch norm), and a step
that neighbours in a kernel partly share.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgec_bundle.delta.tensor.index import tensors_of

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
_SHAPES = (
    (256, 64, 1, 1),
    (64, 256, 1, 1),
    (64, 64, 3, 3),
    (512, 128, 1, 1),
    (128, 128, 3, 3),
    (256, 256, 3, 3),
    (1024, 256, 1, 1),
    (512, 512, 3, 3),
    (2048, 512, 1, 1),
    (512, 2048, 1, 1),
)
_ONNX_TYPES = {"float32": 1, "int8": 3, "int32": 6, "float16": 10}
_NUMPY_TYPES = {"fp32": ("float32", "<f4"), "fp16": ("float16", "<f2")}
AMOUNTS = {"light": 0.006, "med": 0.03}  # the step's size against the weights'


@dataclass(frozen=True)
class Pair:
    """Two files, and the class of the update: dtype and how much changed."""

    name: str
    kind: str
    old: bytes
    new: bytes


def small_pairs() -> Iterator[Pair]:
    """Return the pairs of at most a few megabytes."""
    digits = ROOT / "models" / "digits"
    for first, second in (("1.0.0", "1.1.0"), ("1.1.0", "1.2.0-bad")):
        files = [(digits / f"{one}.onnx").read_bytes() for one in (first, second)]
        yield Pair(f"digits {first} to {second}", "fp32 retrained", files[0], files[1])
    delta = SHARED / "delta"
    for path in sorted(delta.glob("cnn_*.onnx")):
        _, kind, form = path.stem.split("_")
        if kind != "base":
            old = (delta / f"cnn_base_{form}.onnx").read_bytes()
            yield Pair(f"cnn {kind} {form}", f"{form} {kind}", old, path.read_bytes())
    tiny = SHARED / "mlperf_tiny"
    for name in ("vww_int8", "resnet8_int8", "kws_int8"):
        if (tiny / f"{name}.tflite").is_file():
            old = (tiny / f"{name}.tflite").read_bytes()
            for kind, amount in (("light", 0.1), ("med", 0.8)):
                new = moved_int8(old, amount)
                yield Pair(f"{name} {kind}*", f"int8 tflite {kind}*", old, new)


def moved_int8(file: bytes, amount: float) -> bytes:
    """Return a TFLite file with its int8 weights moved by `amount` steps, and its scales."""
    chance = np.random.default_rng(1)
    made = bytearray(file)
    for one in tensors_of(file):
        data = file[one.offset : one.end]
        if one.dtype == "int8" and one.size >= 64:
            values = np.frombuffer(data, np.int8).astype(np.float64)
            rows = np.exp(0.4 * chance.normal(size=one.shape[0])).repeat(one.size // one.shape[0])
            values = np.rint(values + amount * rows * chance.normal(size=one.size))
            made[one.offset : one.end] = np.clip(values, -127, 127).astype(np.int8).tobytes()
        elif one.name.endswith("/scale") and one.size >= 64:
            scales = np.frombuffer(data, "<f4") * (1 + 0.005 * chance.normal(size=one.size // 4))
            made[one.offset : one.end] = scales.astype("<f4").tobytes()
    return bytes(made)


def large_pair(form: str, kind: str) -> Pair:
    """Return a pair of ResNet-50's size: 24 MB in int8, 47 MB in fp16, 94 MB in fp32."""
    old: list[bytes] = []
    new: list[bytes] = []
    parameters = number = 0
    while parameters < 23_500_000:
        shape = _SHAPES[number % len(_SHAPES)]
        before, after = _layer(np.random.default_rng(number), shape, AMOUNTS[kind])
        for weights, tensors in ((before, old), (after, new)):
            add = _add_int8 if form == "int8" else _add_float
            add(tensors, f"layer{number}", weights, form)
        parameters += before.size
        number += 1
    return Pair(f"made {form} {kind}", f"large {form} {kind}", _onnx(old), _onnx(new))


def _layer(
    chance: np.random.Generator, shape: tuple[int, ...], amount: float
) -> tuple[np.ndarray, np.ndarray]:
    rows = (shape[0], 1, 1, 1)
    old = chance.standard_t(6, size=shape) * np.exp(0.3 * chance.normal(size=rows))
    old *= np.sqrt(1 / np.prod(shape[1:]))
    step = chance.normal(size=shape)
    if shape[2] > 1:
        step = 0.7 * step + 0.7 * chance.normal(size=(*shape[:2], 1, 1))
    factor = 1 + amount * chance.normal(size=rows)
    sizes = amount * np.exp(0.4 * chance.normal(size=rows)) * old.std()
    return old.astype(np.float32), (old * factor + step * sizes).astype(np.float32)


def _add_float(tensors: list[bytes], name: str, weights: np.ndarray, form: str) -> None:
    dtype, code = _NUMPY_TYPES[form]
    tensors.append(_tensor(f"{name}.weight", dtype, weights.shape, weights.astype(code).tobytes()))


def _add_int8(tensors: list[bytes], name: str, weights: np.ndarray, form: str) -> None:
    scales = (np.abs(weights).reshape(len(weights), -1).max(1) / 127).astype(np.float32)
    steps = np.rint(weights / scales[:, None, None, None])
    single = np.float32(0.02)
    bias = np.random.default_rng(len(tensors)).normal(size=len(scales)) / 10 / (scales * single)
    for suffix, dtype, values in (
        ("weight_quantized", "int8", np.clip(steps, -127, 127).astype(np.int8)),
        ("weight_scale", "float32", scales),
        ("input_scale", "float32", single.reshape(1)),
        ("bias_quantized", "int32", bias.astype("<i4")),
        ("bias_quantized_scale", "float32", single * scales),
    ):
        tensors.append(_tensor(f"{name}.{suffix}", dtype, values.shape, values.tobytes()))


def _onnx(tensors: list[bytes]) -> bytes:
    graph = b"".join(_field(5, one) for one in tensors) + _field(2, b"made")
    return _varint(1 << 3) + _varint(9) + _field(7, graph)


def _tensor(name: str, dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    dims = b"".join(_varint(1 << 3) + _varint(dim) for dim in shape)
    kind = _varint(2 << 3) + _varint(_ONNX_TYPES[dtype])
    return dims + kind + _field(8, name.encode()) + _field(9, data)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
