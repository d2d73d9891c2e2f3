"""A result that is larger than its source file says so, and why."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from quantise_kit import forms_of
from torch import nn

from edgec_compiler.growth import on_growth
from edgec_compiler.mapping.fitting import fit_to_target
from edgec_compiler.recipe import Recipe
from edgec_compiler.variants import make_variant
from edgec_hardware_profiles import load

pytestmark = pytest.mark.xdist_group("compiles")
FRAMES = np.random.default_rng(2).normal(size=(4, 6, 5)).astype(np.float32)


class Memory(nn.Module):
    """[1, 6, 5] -> [1, 8]: what a GRU holds after the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gru(x)[0][:, -1]


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch capturing its own GRU
@pytest.mark.parametrize(
    ("target", "fmt", "said", "most"),
    [
        ("rpi4", "tflite", "operators): every turn of GRU is written out", "the rest describes"),
        ("generic-arm64", "onnx", "operators and their tensors (the source has", "weights alone"),
    ],
)
def test_a_larger_result_tells_its_weights_from_its_operators(
    target: str, fmt: str, said: str, most: str
) -> None:
    torch.manual_seed(0)
    forms, profile = forms_of(Memory(), FRAMES), load(target)
    payload = make_variant(forms, profile, fmt, Recipe("fp32")).payload
    fitted = fit_to_target(payload, fmt, profile, "memory", None)
    size = len(payload)

    (note,) = on_growth(replace(forms.source, size_bytes=size - 200), fitted)
    (far,) = on_growth(replace(forms.source, size_bytes=100), fitted)

    assert said in note
    assert note.startswith(f"larger than the source file ({size / 1000:.1f} kB, ")
    assert most in far  # the weights are more than 100 bytes
    assert ("every turn of GRU is written out" in far) == (fmt == "tflite")
    for alike in (size, round(size, -2)):
        assert on_growth(replace(forms.source, size_bytes=alike), fitted) == ()


@pytest.mark.parametrize(("target", "fmt"), [("rpi4", "tflite"), ("generic-arm64", "onnx")])
def test_weights_are_blamed_where_they_are_most_of_the_file(target: str, fmt: str) -> None:
    torch.manual_seed(0)
    forms, profile = forms_of(nn.Linear(5, 2000), FRAMES), load(target)
    payload = make_variant(forms, profile, fmt, Recipe("fp32")).payload
    fitted = fit_to_target(payload, fmt, profile, "wide", None)

    (note,) = on_growth(replace(forms.source, size_bytes=20_000), fitted)

    assert "its weights alone take 48." in note
    assert "more than the source stores them in" in note


def test_instructions_of_an_accelerator_are_no_weights() -> None:
    pytest.importorskip("ethosu")
    torch.manual_seed(0)
    forms, profile = forms_of(nn.Conv2d(3, 4, 3)), load("ethos-u55-256")
    payload = make_variant(forms, profile, "tflite", Recipe("int8")).payload
    fitted = fit_to_target(payload, "tflite", profile, "net", None)

    (note,) = on_growth(replace(forms.source, size_bytes=500), fitted)

    assert "are the accelerator's instructions" in note
    assert "alone" not in note
