"""The pairs of files behind the golden patches: small, and between them every segment kind."""

from dataclasses import replace

import numpy as np
from delta_models import Weights, onnx_file, random_data, tflite_file, tuned


def pairs() -> dict[str, tuple[bytes, bytes]]:
    """Return old and new file by name."""
    return {"int8-tflite": _int8(), "floats-onnx": _floats(), "plain": _plain()}


def _int8() -> tuple[bytes, bytes]:
    """Kernels, channels that were rescaled, scales, a bias that follows from them, int4."""
    chance = np.random.default_rng(1)
    weights = Weights("w", "int8", (16, 8, 3, 3), random_data("int8", 1152, chance))
    scale = np.float32(0.02)
    old_scales = chance.random(16, dtype=np.float32) / 100 + np.float32(0.01)
    new_scales = (old_scales * (1 + 0.02 * chance.normal(size=16))).astype(np.float32)
    bias = np.rint(3 * chance.normal(size=16) / (scale * old_scales)).astype("<i4")
    new_bias = np.rint(bias * (old_scales / new_scales)).astype("<i4") + 1
    single = Weights("in_scale", "float32", (1,), scale.tobytes())
    files = []
    for scales, numbers, amount in ((old_scales, bias, 0.0), (new_scales, new_bias, 0.02)):
        files.append(
            tflite_file(
                [
                    single,
                    replace(tuned(weights, chance, amount), scales=scales.tobytes()),
                    Weights("b", "int32", (16,), numbers.tobytes(), (scale * scales).tobytes()),
                    tuned(Weights("p", "int4", (64,), bytes(range(32))), chance, amount),
                ],
                description=f"version {amount}",
            )
        )
    return files[0], files[1]


def _floats() -> tuple[bytes, bytes]:
    """float32 with ratios, pruned float16 with zeros of both signs, a grown bfloat16."""
    chance = np.random.default_rng(2)
    kernel = Weights("k", "float32", (12, 6, 3, 3), random_data("float32", 648, chance))
    values = np.frombuffer(kernel.data, "<f4").reshape(12, -1)
    moved = values * (1 + 0.05 * chance.normal(size=(12, 1)))
    moved = (moved + 0.002 * chance.normal(size=moved.shape)).astype("<f4")
    dense = Weights("d", "float16", (20, 60), random_data("float16", 1200, chance))
    halves = np.frombuffer(dense.data, "<f2").copy()
    small = np.abs(halves) < 0.6
    halves[small] = 0
    halves[small & (chance.random(1200) < 0.3)] = np.float16(-0.0)
    grown = Weights("g", "bfloat16", (10, 8), random_data("bfloat16", 80, chance))
    more = Weights("g", "bfloat16", (12, 8), grown.data + random_data("bfloat16", 16, chance))
    stranger = Weights("s", "float32", (50,), random_data("float32", 50, chance))
    other = replace(stranger, data=random_data("float32", 50, chance))
    old = onnx_file([kernel, dense, grown, stranger])
    new = onnx_file(
        [
            replace(kernel, data=moved.tobytes()),
            replace(dense, data=halves.tobytes()),
            more,
            other,
        ],
        graph=b"the new main",
    )
    return old, new


def _plain() -> tuple[bytes, bytes]:
    """No model at all: a copy, an addition, a literal."""
    chance = np.random.default_rng(3)
    old = chance.bytes(600)
    middle = bytes(byte ^ (at % 9 == 0) for at, byte in enumerate(old[200:400]))
    return old, old[:200] + middle + b"something new" + old[450:]
