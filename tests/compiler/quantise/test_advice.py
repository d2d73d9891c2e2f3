"""What quantisers are complained about is said with the result."""

import numpy as np
import pytest
import torch
from quantise_kit import IMAGES, Small, forms_of

from edgec_compiler.recipe import Recipe
from edgec_compiler.variants import make_variant
from edgec_hardware_profiles import load

PROFILES = {"tflite": load("rpi4"), "onnx": load("generic-arm64")}


def test_few_calibration_samples_are_told() -> None:
    torch.manual_seed(0)
    forms = forms_of(Small(), IMAGES[:5])

    made = make_variant(forms, PROFILES["onnx"], "onnx", Recipe("int8"))

    assert made.notes == ("only 5 calibration samples: ranges may be too narrow, take about 100",)
    assert make_variant(forms, PROFILES["onnx"], "onnx", Recipe("fp16")).notes == ()


def test_calibration_samples_that_are_all_the_same_are_told() -> None:
    torch.manual_seed(0)
    alike, one = (forms_of(Small(), IMAGES[:1].repeat(n, 0)) for n in (40, 1))

    made, single = (make_variant(f, PROFILES["onnx"], "onnx", Recipe("int8")) for f in (alike, one))

    said = "all 40 calibration samples are the same: ranges cannot be learnt from them"
    assert made.notes == (said,)
    assert single.notes[0].startswith("only 1 calibration sample: ")


def test_ranges_that_are_cut_are_told_with_the_layer() -> None:
    torch.manual_seed(0)
    images = np.concatenate([IMAGES, IMAGES, IMAGES])
    images[7, 0, 3, 3] = 3000  # one broken pixel
    forms = forms_of(Small(), images)

    made = make_variant(forms, PROFILES["onnx"], "onnx", Recipe("int8", "entropy"))
    whole = make_variant(forms, PROFILES["onnx"], "onnx", Recipe("int8"))

    assert len(made.notes) == 1
    assert made.notes[0].startswith("entropy cuts ")
    assert "tensors to less than half of what was seen, most that of " in made.notes[0]
    assert whole.notes == ()


@pytest.mark.parametrize(
    ("fmt", "said"),
    [("onnx", "2 convolutions stay in float"), ("tflite", "2 convolutions take the range of each")],
)
def test_dynamic_quantisation_of_convolutions_is_told(fmt: str, said: str) -> None:
    torch.manual_seed(0)

    made = make_variant(forms_of(Small()), PROFILES[fmt], fmt, Recipe("dynamic"))

    assert said in made.notes[0]
