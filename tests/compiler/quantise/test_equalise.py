"""Equalisation keeps the float function and helps uneven nets; bias correction centres errors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantise_kit import IMAGES, answers, error, exact, forms_of
from torch import nn

from edgec_compiler.errors import UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.passes import capture, run_passes
from edgec_compiler.passes.graph import observe
from edgec_compiler.quantise.equalise import equalise
from edgec_compiler.recipe import Recipe
from edgec_compiler.variants import layers_of, make_variant
from edgec_hardware_profiles import load

PROFILES = {"tflite": load("rpi4"), "onnx": load("generic-arm64")}


class Separable(nn.Module):
    """Pointwise, depthwise, grouped and linear layers whose channels' ranges are far apart."""

    def __init__(self, spread: float, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.deep = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 12, 1)
        self.grouped = nn.Conv2d(12, 6, 3, groups=3)
        self.last = nn.Linear(6, 4)
        for layer in (self.first, self.deep, self.point):
            gains = torch.exp(spread * torch.randn(len(layer.weight)))
            with torch.no_grad():
                layer.weight *= gains.reshape(-1, 1, 1, 1)
                layer.bias *= gains
        with torch.no_grad():  # so that no channel drowns the others in what comes out
            self.deep.weight /= self.first.weight.abs().amax((1, 2, 3)).reshape(-1, 1, 1, 1)
            self.point.weight /= self.deep.weight.abs().amax((1, 2, 3)).reshape(1, -1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.deep(torch.relu(self.first(x))))
        x = nn.functional.max_pool2d(torch.relu(self.point(x)), 2)
        x = nn.functional.leaky_relu(self.grouped(x), 0.1)
        return self.last(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@given(st.floats(0, 3), st.integers(0, 1000))
@settings(max_examples=8)
def test_the_float_function_stays_what_it_was(spread: float, seed: int) -> None:
    x = (torch.from_numpy(IMAGES[:1]),)
    graph = capture(Separable(spread, seed).eval(), x)
    run_passes(graph, x)
    (before,) = observe(graph, x)

    pairs = equalise(graph)

    (after,) = observe(graph, x)
    assert pairs == 4
    np.testing.assert_allclose(after, before, atol=1e-4 * float(before.abs().max()))


@pytest.fixture(scope="module")
def uneven() -> Forms:
    return forms_of(Separable(1.5).eval())


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_a_depthwise_net_with_uneven_ranges_loses_less(uneven: Forms, fmt: str) -> None:
    profile, wanted = PROFILES[fmt], exact(uneven)

    plain = make_variant(uneven, profile, fmt, Recipe("int8"))
    even = make_variant(uneven, profile, fmt, Recipe("int8", equalise=True))

    assert even.notes == ("equalised 4 pairs of layers",)
    losses = [error(answers(uneven, profile, fmt, one), wanted) for one in (plain, even)]
    assert losses[1] < 0.5 * losses[0]


def test_layers_keep_their_names(uneven: Forms) -> None:
    for fmt, profile in PROFILES.items():
        before, after = layers_of(uneven, profile, fmt), layers_of(uneven.equalised(), profile, fmt)
        assert [layer.name for layer in before] == [layer.name for layer in after]


def test_what_is_made_of_equalised_forms_passes_between_processes(uneven: Forms) -> None:
    recipe = Recipe("int8", equalise=True)
    wanted = make_variant(uneven, PROFILES["onnx"], "onnx", recipe).payload
    other = Forms(uneven.source, uneven.interface, uneven.calibration, lambda _step: None)

    other.adopt(uneven.made())

    assert make_variant(other, PROFILES["onnx"], "onnx", recipe).payload == wanted


class Clamped(nn.Module):
    """ReLU6 is not homogeneous, a residual has a second reader."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.first(x))
        return x + self.second(x)


def test_where_nothing_can_be_evened_out_it_is_said() -> None:
    torch.manual_seed(0)
    forms = forms_of(Clamped())

    made = make_variant(forms, PROFILES["onnx"], "onnx", Recipe("int8", equalise=True))

    assert "no two layers with only ReLU" in made.notes[0]


def test_a_tflite_file_has_no_graph_to_even_out(uneven: Forms) -> None:
    source = uneven.source
    flat = replace(source, module=None, format="tflite", payload=uneven.tflite().payload)
    forms = Forms(flat, uneven.interface, uneven.calibration, lambda _step: None)

    with pytest.raises(UsageError, match="--equalize: a TFLite file has no graph"):
        make_variant(forms, PROFILES["tflite"], "tflite", Recipe("int8", equalise=True))


class Skewed(nn.Module):
    """Positive inputs and few coarse weights: rounding moves the mean of every output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 8)
        with torch.no_grad():  # one great weight per row makes the steps of the others coarse
            self.first.weight[:, 0, 0, 0] = 30
            self.last.weight[:, 0] = 20

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x.abs() + 1))
        return self.last(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_bias_correction_takes_off_the_mean_error(fmt: str) -> None:
    forms, profile = forms_of(Skewed()), PROFILES[fmt]
    wanted = exact(forms)

    plain = make_variant(forms, profile, fmt, Recipe("int8"))
    corrected = make_variant(forms, profile, fmt, Recipe("int8", bias_correction=True))

    assert corrected.notes == ("corrected the biases of 2 layers",)
    assert len(corrected.payload) == len(plain.payload)
    shifts = [
        np.abs((answers(forms, profile, fmt, one) - wanted).mean(axis=0)).mean()
        for one in (plain, corrected)
    ]
    losses = [error(answers(forms, profile, fmt, one), wanted) for one in (plain, corrected)]
    assert shifts[1] < 0.6 * shifts[0]
    assert losses[1] < losses[0]
