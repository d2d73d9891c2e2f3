"""Ranges of activations: what every method promises, whatever the data and its order."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantise_kit import IMAGES, Small, answers, error, exact, forms_of
from torch import nn
from torch.nn import functional

from edgec_compiler.errors import ConversionError, UsageError
from edgec_compiler.forms import Forms
from edgec_compiler.quantise.clipping import Range, Scheme
from edgec_compiler.quantise.histogram import SIDE, Histogram
from edgec_compiler.quantise.layers import tflite_layers
from edgec_compiler.quantise.ranges import Observations, observe_onnx, observe_tflite
from edgec_compiler.quantise.scores import cut_off
from edgec_compiler.recipe import METHODS, Recipe
from edgec_compiler.samples import Samples, load_samples
from edgec_compiler.variants import make_variant
from edgec_hardware_profiles import load
from edgec_runtime.data import Data

INT8, SYMMETRIC, INT16 = Scheme(8, False), Scheme(8, True), Scheme(16, True)
SCHEMES = (INT8, SYMMETRIC, INT16)
CLIPPING = ("percentile", "mse", "entropy")

_numbers = st.one_of(st.floats(-1e6, 1e6, width=32), st.floats(-1, 1, width=32))
_portions = st.lists(st.lists(_numbers, min_size=1), min_size=1)


def _range(
    portions: Sequence[Sequence[float] | np.ndarray], method: str, scheme: Scheme = INT8
) -> Range:
    seen = Observations(histograms=True)
    for portion in portions:
        seen.add("t", np.asarray(portion, np.float32))
    return seen.ranges(method, scheme)["t"]


def _loss(values: np.ndarray, found: Range, scheme: Scheme) -> float:
    """Return the mean squared error of integers with the range `found`."""
    low, high = found
    if scheme.symmetric:
        low, high = -max(high, -low), max(high, -low)
    step = (high - low) / (2**scheme.bits - 1)
    first = np.rint(low / step)
    coded = np.clip(np.rint(values / step), first, first + 2**scheme.bits - 1)
    return float(np.square(coded * step - values).mean())


@given(_portions, st.sampled_from(METHODS), st.sampled_from(SCHEMES), st.randoms())
@settings(max_examples=150)
def test_neither_order_nor_portions_matter(
    portions: list[list[float]], method: str, scheme: Scheme, random: object
) -> None:
    everything = [value for portion in portions for value in portion]
    shuffled = list(everything)
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    found = _range(portions, method, scheme)

    assert found == _range([everything], method, scheme)
    assert found == _range([[value] for value in shuffled], method, scheme)


@given(_portions, st.sampled_from(METHODS), st.sampled_from(SCHEMES))
@settings(max_examples=150)
def test_a_range_holds_zero_and_nothing_beyond_the_data(
    portions: list[list[float]], method: str, scheme: Scheme
) -> None:
    low, high = _range(portions, method, scheme)

    values = [np.float32(value) for portion in portions for value in portion]
    assert min(0, *values) <= low <= 0 <= high <= max(0, *values)
    if method == "minmax":
        assert (low, high) == (min(0, *values), max(0, *values))


@given(_portions)
@settings(max_examples=100)
def test_a_histogram_counts_every_number_in_the_bin_where_it_lies(
    portions: list[list[float]],
) -> None:
    histogram = Histogram()
    for portion in portions:
        values = np.asarray(portion, np.float32)
        histogram.add(values, float(np.abs(values).max()))

    everything = np.array([v for portion in portions for v in portion], np.float32)
    places = np.searchsorted(histogram.edges, everything.astype(np.float64), side="right") - 1
    np.testing.assert_array_equal(np.bincount(places, minlength=2 * SIDE), histogram.counts)
    assert np.abs(everything).max() <= SIDE * histogram.width


def test_memory_does_not_grow_with_the_samples() -> None:
    draw = np.random.default_rng(0)
    few, many = Histogram(), Histogram()
    for histogram, count in ((few, 1), (many, 300)):
        for scale in range(1, count + 1):
            values = draw.normal(0, scale, 1000).astype(np.float32)
            histogram.add(values, float(np.abs(values).max()))

    assert many.counts.nbytes == few.counts.nbytes == 2 * SIDE * 8
    assert sys.getsizeof(many) == sys.getsizeof(few)
    assert many.counts.sum() == 300_000


def test_percentile_keeps_9999_of_10000_numbers_and_lets_outliers_go() -> None:
    values = np.concatenate([np.random.default_rng(1).normal(size=100_000), [500.0]])

    low, high = _range([values], "percentile")

    assert np.mean((values < low) | (values > high)) == pytest.approx(1e-4, rel=0.3)
    assert -5 < low < -3
    assert 3 < high < 6


def test_percentile_of_a_small_tensor_is_all_of_it() -> None:
    assert _range([[1.0, 2.0, 100.0]], "percentile") == (0.0, 100.0)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", ["normal", "outlier", "relu", "laplace", "uniform", "negative"])
def test_mse_loses_no_more_than_any_range_around_it(shape: str, scheme: Scheme) -> None:
    draw = np.random.default_rng(2)
    values = {
        "normal": draw.normal(size=50_000),
        "outlier": np.append(draw.normal(size=50_000), [60.0]),
        "relu": np.maximum(draw.normal(size=50_000), 0),
        "laplace": draw.laplace(size=50_000),
        "uniform": draw.uniform(-1, 2, 50_000),
        "negative": -draw.exponential(size=50_000),
    }[shape].astype(np.float32)

    found = _range([values], "mse", scheme)

    whole = _range([values], "minmax", scheme)
    tried = [
        (low * whole[0], high * whole[1])
        for low in np.linspace(0.05, 1, 20)
        for high in np.linspace(0.05, 1, 20)
    ]
    best = min(_loss(values, one, scheme) for one in tried)
    assert _loss(values, found, scheme) <= 1.03 * best + 1e-12


def test_entropy_clips_a_long_tail_and_leaves_a_flat_distribution() -> None:
    draw = np.random.default_rng(3)
    tail = np.append(draw.normal(size=200_000), [40.0, -40.0])

    low, high = _range([tail], "entropy")
    flat = _range([draw.uniform(0, 1, 200_000)], "entropy")

    assert 3 < high < 12
    assert -12 < low < -3
    assert flat[1] > 0.9


def test_entropy_is_not_fooled_by_the_zeros_of_a_relu() -> None:
    values = np.maximum(np.random.default_rng(6).normal(-0.5, 1, 200_000), 0)

    _, high = _range([values], "entropy")

    assert high > 0.5 * values.max()


def test_temporaries_of_kernels_are_not_observed(forms: Forms) -> None:
    form = forms.tflite()
    feeds = forms.tflite_feeds(forms.calibration_samples())

    seen = observe_tflite(form.payload, feeds).seen

    made = {layer.output for layer in tflite_layers(form.payload)}
    assert "" not in seen
    assert made <= set(seen)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[0.0], [0.0] * 9, [3.5] * 9, [-2.0] * 9, [2.0**-140, 0.0], []])
def test_constant_and_tiny_tensors_have_a_range(method: str, values: list[float]) -> None:
    if not values:
        assert Observations(histograms=True).ranges(method, INT8) == {}
        return
    low, high = _range([values], method)

    assert low <= 0 <= high
    assert low <= min(values) <= max(values) <= high


@pytest.fixture(scope="module")
def forms() -> Forms:
    torch.manual_seed(0)
    return forms_of(Small())


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
@pytest.mark.parametrize("method", CLIPPING)
def test_every_method_makes_a_model_near_the_float_one(forms: Forms, fmt: str, method: str) -> None:
    profile = load("rpi4" if fmt == "tflite" else "generic-arm64")

    made = make_variant(forms, profile, fmt, Recipe("int8", method))

    assert error(answers(forms, profile, fmt, made), exact(forms)) < 0.15


class Batched(nn.Module):
    """Four rows at once, always."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x).reshape(4, 5)


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_a_model_of_batch_4_is_calibrated_with_any_number_of_samples(fmt: str) -> None:
    rows = np.random.default_rng(4).normal(size=(10, 5)).astype(np.float32)
    forms = forms_of(Batched(), rows, batch=4)
    profile = load("rpi4" if fmt == "tflite" else "generic-arm64")

    made = make_variant(forms, profile, fmt, Recipe("int8", "entropy"))

    assert error(answers(forms, profile, fmt, made), np.tanh(rows)) < 0.05


class Token(nn.Module):
    """Joins a constant token to rows, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.layer(x.flatten(2))
        return torch.cat([self.token.expand(x.shape[0], -1, -1), rows[..., :8]], 1)


@pytest.mark.parametrize("precision", ["int8", "int16x8"])
def test_a_constant_that_is_joined_to_an_activation_takes_its_scale(precision: str) -> None:
    torch.manual_seed(0)
    forms, profile = forms_of(Token(), IMAGES[:, :, :, :1]), load("rpi4")

    made = make_variant(forms, profile, "tflite", Recipe(precision))

    assert error(answers(forms, profile, "tflite", made), exact(forms)) < 0.02


class Masked(nn.Module):
    """Attention of eight rows, each to those before it alone."""

    def __init__(self, below: float) -> None:
        super().__init__()
        self.below = below
        self.layer = nn.Linear(24, 24)
        self.hidden = nn.Buffer(torch.ones(8, 8, dtype=torch.bool).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.transpose(1, 2).flatten(2)
        query, key, value = self.layer(rows).chunk(3, -1)
        scores = query @ key.transpose(1, 2)
        return scores.masked_fill(self.hidden, self.below).softmax(-1) @ value


@pytest.mark.parametrize("below", [-np.inf, -1e9, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_what_attention_is_not_to_see_does_not_widen_the_scores(fmt: str, below: float) -> None:
    torch.manual_seed(0)
    forms = forms_of(Masked(below))
    profile = load("rpi4" if fmt == "tflite" else "generic-arm64")

    made = make_variant(forms, profile, fmt, Recipe("int8"))

    assert error(answers(forms, profile, fmt, made), exact(forms)) < 0.05


def test_scores_are_cut_off_where_all_of_a_row_below_gets_less_than_a_thousandth() -> None:
    scores = np.array([[4.0, -30.0], [1.0, 0.5], [-1000.0, -1000.0]], np.float32)

    made = cut_off(scores)

    assert made[0].tolist() == [4, np.float32(1 - np.log(2 * 1024))]  # by the row whose best is 1
    assert made[1].tolist() == [1, 0.5]


class Endless(nn.Module):
    """Maxima over what may be negative: the pool pads, or minus infinity stands before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(functional.max_pool2d(self.first(x), 3, 2, 1))
        return functional.max_pool2d(functional.pad(x, (0, 1, 0, 1), value=-np.inf), 3, 2)


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_padded_maxima_have_a_finite_range(fmt: str) -> None:
    torch.manual_seed(0)
    forms = forms_of(Endless())
    profile = load("cortex-m7" if fmt == "tflite" else "generic-arm64")

    made = make_variant(forms, profile, fmt, Recipe("int8"))

    assert error(answers(forms, profile, fmt, made), exact(forms)) < 0.05


class Logarithm(nn.Module):
    """Overflows at zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log(x).mean((2, 3))


@pytest.mark.parametrize(("fmt", "layer"), [("tflite", "LOG:1"), ("onnx", "log")])
def test_what_is_not_finite_is_told_with_sample_and_layer(fmt: str, layer: str) -> None:
    images = np.abs(IMAGES[:3]) + 1
    images[2, 0, 0, 0] = 0
    forms = forms_of(Logarithm(), images)
    profile = load("rpi4" if fmt == "tflite" else "generic-arm64")

    with pytest.raises(ConversionError, match=f"sample 3 makes the output of {layer} -inf"):
        make_variant(forms, profile, fmt, Recipe("int8"))


def test_an_input_that_is_not_a_number_is_told_with_its_row(forms: Forms) -> None:
    images = IMAGES.copy()
    images[20, 0, 0, 0] = np.nan
    broken = replace(
        forms, calibration=Samples(Data({"x": images}), "calibration", None), _seen={}, _ranges={}
    )

    with pytest.raises(UsageError, match=r"--calibration: input 'x', row 20: .*got nan"):
        broken.onnx_ranges("minmax", INT8)


def test_data_without_samples_is_refused(forms: Forms) -> None:
    with pytest.raises(ConversionError, match="no samples"):
        observe_onnx(forms.onnx(None), [])


def test_what_is_wrong_with_a_file_is_told_with_its_name(tmp_path: Path) -> None:
    forms = forms_of(Small(), IMAGES)
    other, bad, images = tmp_path / "other.npz", tmp_path / "bad.npz", IMAGES.repeat(3, 0)
    np.savez(other, x=images, more=images)
    images[20] = np.nan
    np.savez(bad, inputs=images)
    samples = load_samples(bad, "calibration", (), forms.interface)

    with pytest.raises(UsageError, match=r"--calibration .*other\.npz: expected inputs x, got"):
        load_samples(other, "calibration", (), forms.interface)
    with pytest.raises(UsageError, match=r"--calibration .*bad\.npz: input 'x', row 20: expected"):
        list(forms.onnx_feeds(samples))
