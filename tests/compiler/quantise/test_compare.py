"""A comparison measures every layer, blames those that add error, and its options help."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from compiler_kit import edgec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from quantise_kit import Small, answers, error, exact, forms_of
from torch import nn

from edgec_bundle.archive import open_bundle
from edgec_compiler.comparing.differences import Difference
from edgec_compiler.comparing.layer_errors import LayerError, blamed, layer_errors
from edgec_compiler.errors import ConversionError
from edgec_compiler.forms import Forms
from edgec_compiler.recipe import Recipe
from edgec_compiler.variants import make_variant
from edgec_hardware_profiles import load

PROFILES = {"tflite": load("rpi4"), "onnx": load("generic-arm64")}


class Uneven(nn.Module):
    """Between two layers lies a tensor with channels of very different ranges."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 4, 1)
        with torch.no_grad():
            self.wide.weight[0] *= 4000
            nn.init.zeros_(self.wide.bias)
            self.last.weight[:, 0] /= 4000

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        return self.last(torch.relu(self.wide(x))).mean((2, 3))


@pytest.fixture(scope="module")
def uneven() -> Forms:
    torch.manual_seed(0)
    return forms_of(Uneven())


def _errors(forms: Forms, fmt: str, recipe: Recipe) -> list[LayerError]:
    made = make_variant(forms, PROFILES[fmt], fmt, recipe)
    return layer_errors(forms, forms.calibration_samples(), fmt, made.payload)


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_layers_that_are_blamed_help_when_they_stay_in_float(uneven: Forms, fmt: str) -> None:
    before = _errors(uneven, fmt, Recipe("int8"))

    names = blamed(before)
    after = _errors(uneven, fmt, Recipe("int8", float_layers=names))

    assert len(names) == 2  # the tensor between both is what suffers
    assert max(one.difference.noise for one in before) > 0.1
    assert max(one.difference.noise for one in after) < 0.003
    assert {one.pair.layer.name for one in after if one.pair.in_float} >= set(names)


@pytest.mark.parametrize(
    ("fmt", "precision"),
    [
        ("tflite", "int8"),
        ("tflite", "int8-weights"),
        ("onnx", "int8"),
        ("onnx", "int8-weights"),
        ("onnx", "int16x8"),
        ("onnx", "int4"),
        ("onnx", "dynamic"),
        ("onnx", "fp16"),
    ],
)
def test_the_last_layers_error_is_the_models(uneven: Forms, fmt: str, precision: str) -> None:
    torch.manual_seed(0)
    forms = uneven if precision not in ("int4", "dynamic") else forms_of(Small())
    made = make_variant(forms, PROFILES[fmt], fmt, Recipe(precision))

    found = layer_errors(forms, forms.calibration_samples(), fmt, made.payload)

    whole = error(answers(forms, PROFILES[fmt], fmt, made), exact(forms))
    assert math.sqrt(found[-1].difference.noise) == pytest.approx(whole, rel=0.05, abs=1e-4)
    assert len(found) >= 4
    weighted = [one for one in found if one.pair.layer.weights and precision != "dynamic"]
    assert not any(one.pair.in_float for one in weighted)


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_a_float_model_has_no_error_and_nobody_to_blame(uneven: Forms, fmt: str) -> None:
    found = _errors(uneven, fmt, Recipe("fp32"))

    assert all(one.pair.in_float for one in found)
    assert max(one.difference.noise for one in found) < 1e-9
    assert blamed(found) == ()


def test_another_models_bundle_is_told(uneven: Forms) -> None:
    made = make_variant(uneven, PROFILES["tflite"], "tflite", Recipe("int8"))
    other = forms_of(nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.Tanh()))

    with pytest.raises(ConversionError, match="has another size in the bundle"):
        layer_errors(other, other.calibration_samples(), "tflite", made.payload)


_FACTORY = """
import torch

def make():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(144, 4)
    return torch.nn.Sequential(*layers).eval(), (torch.zeros(1, 3, 8, 8),)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    (folder / "net.py").write_text(_FACTORY)
    (folder / "labels.txt").write_text("cat\ndog\nhorse\nnewt\n")
    images = np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "images.npz", inputs=images)
    done = edgec(
        *("compile", "net.py:make", "--target", "generic-x86_64-tflite"),
        *("--target", "ethos-u55-128", "--calibration", "images.npz"),
        *("--labels", "labels.txt", "--precision", "int8", "--no-cache", "--out", "build"),
        cwd=folder,
    )
    assert done.code == 0, done.err
    return folder


_STEPS = """
inputs = [{ name = "image", dtype = "uint8", shape = [-1, 8, 8, 3], meaning = "image" }]
preprocessing = [
    { op = "decode_image", mode = "RGB" },
    { op = "scale", std = 255 },
    { op = "layout", from = "NHWC", to = "NCHW" },
]
"""


def test_a_folder_may_name_the_classes_that_the_bundle_knows(folder: Path) -> None:
    (folder / "steps.toml").write_text(_STEPS)
    for number, name in enumerate(("cat", "dog")):
        (folder / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (50, 90, 99 * number)).save(folder / "photos" / name / "1.png")
    build = "build/generic-x86_64-tflite"
    steps = ("--preprocessing", "steps.toml")

    done = edgec("compare", "net.py:make", build, "--data", "photos", *steps, cwd=folder)

    assert done.code == 0, done.err
    assert "layers on 2 samples" in done.out


def test_people_read_a_table_and_options_to_paste(folder: Path) -> None:
    build = "build/generic-x86_64-tflite"
    done = edgec("compare", "net.py:make", build, "--data", "images.npz", cwd=folder)

    assert done.code == 0, done.err
    assert "layers on 24 samples, the worst first\nLAYER" in done.out
    assert "add to `edgec compile`:\n  --float-layer " in done.out


def test_an_accelerators_binary_is_compared_by_its_reference(folder: Path) -> None:
    build = "build/ethos-u55-128"
    assert open_bundle(folder / build).manifest.has("reference")

    done = edgec("compare", "net.py:make", build, "--data", "images.npz", "--json", cwd=folder)

    assert done.code == 0, done.err
    (found,) = done.lines
    assert (found["format"], found["samples"]) == ("tflite", 24)
    assert found["blamed"]
    assert found["options"] == ""  # it executes integers only
    assert found["layers"] == sorted(found["layers"], key=lambda one: -one["error"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.py:make", "nowhere"), "nowhere: not a bundle"),
        (("nothing.onnx", "build/generic-x86_64-tflite"), "nothing.onnx"),
        (("net.py:make", "damaged"), "damaged"),
    ],
)
def test_what_cannot_be_compared_exits_2(
    folder: Path, arguments: tuple[str, str], message: str
) -> None:
    if not (folder / "damaged").exists():
        shutil.copytree(folder / "build" / "generic-x86_64-tflite", folder / "damaged")
        (folder / "damaged" / "model.tflite").write_bytes(b"no model")

    done = edgec("compare", *arguments, "--data", "images.npz", cwd=folder)

    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


_floats = st.floats(-1e3, 1e3, width=32)
_values = arrays.arrays(np.float32, st.integers(1, 40), elements=_floats)


@given(_values, st.data())
@settings(max_examples=100)
def test_a_difference_is_that_of_all_values_however_they_come(
    values: np.ndarray, data: st.DataObject
) -> None:
    made = data.draw(
        arrays.arrays(np.float32, values.shape, elements=st.floats(-1e3, 1e3, width=32))
    )
    cut = data.draw(st.integers(0, values.size))

    whole, parts = Difference(), Difference()
    whole.add(values, made)
    parts.add(values[:cut], made[:cut])
    parts.add(values[cut:], made[cut:])

    assert parts.noise == pytest.approx(whole.noise)
    assert parts.worst == whole.worst == np.abs(made.astype(np.float64) - values).max()
    if whole.cosine is not None:
        assert -1.000001 <= whole.cosine <= 1.000001
    if 0 < whole.noise < math.inf:
        assert whole.sqnr_db == pytest.approx(-10 * math.log10(whole.noise))


def test_equal_values_have_no_noise_and_an_error_over_zeros_has_no_bound() -> None:
    equal, zeros = Difference(), Difference()
    equal.add(np.ones(4, np.float32), np.ones(4, np.float32))
    zeros.add(np.zeros(4, np.float32), np.ones(4, np.float32))

    assert (equal.noise, equal.sqnr_db) == (0.0, None)
    assert (zeros.noise, zeros.sqnr_db, zeros.cosine) == (math.inf, None, None)
