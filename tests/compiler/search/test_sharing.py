"""Which targets share candidates: those for which equal recipes give equal models."""

from dataclasses import replace

import pytest

from edgec_compiler.search.bench import style_of
from edgec_hardware_profiles import load


@pytest.mark.parametrize(
    ("fmt", "change"),
    [
        ("onnx", {"max_opset": 18}),
        ("onnx", {"quantization": load("jetson-orin-nano").quantization}),
        ("tflite", {"full_integer": True}),
    ],
)
def test_targets_whose_models_may_differ_share_no_candidates(
    fmt: str, change: dict[str, object]
) -> None:
    profile = load("generic-arm64")

    assert style_of(replace(profile, **change), fmt, ()) != style_of(profile, fmt, ())


def test_targets_that_differ_in_speed_alone_share_their_candidates() -> None:
    coral, ethos = load("coral-edgetpu"), load("ethos-u55-128")

    assert style_of(load("rpi4"), "tflite", ()) == style_of(load("rpi5"), "tflite", ())
    assert style_of(coral, "tflite", ()) == style_of(ethos, "tflite", ())
    assert style_of(coral, "tflite", ("GELU",)) != style_of(ethos, "tflite", ())
