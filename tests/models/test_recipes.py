"""The recipes of models/: what they commit, that their trainers make it, and what a search asks."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgec_bundle.manifest import TensorSpec
from edgec_compiler.interface import read_steps
from edgec_hardware_profiles import names
from edgec_runtime.processing import Preprocessing

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models"
SEARCHED = ("images", "keywords", "vibration", "gestures", "heartbeats")
RECIPES = ("digits", *SEARCHED)


def _program(name: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        cwd=MODELS / name,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_commits_data_that_its_own_steps_take(name: str) -> None:
    folder = MODELS / name
    steps = read_steps(folder / "steps.toml")
    (raw,) = steps.inputs
    spec = TensorSpec(**{**raw, "shape": tuple(raw["shape"])})
    classes = len((folder / "labels.txt").read_text().split())
    session = onnxruntime.InferenceSession(folder / "1.1.0.onnx")
    (taken,) = session.get_inputs()

    for file in ("calibration.npz", "evaluation.npz", "acceptance.npz"):
        with np.load(folder / file) as arrays:
            inputs, labels = arrays["inputs"], arrays["labels"]
        assert inputs.dtype.name == spec.dtype
        assert set(labels.tolist()) == set(range(classes))
        ready = Preprocessing.parse((spec,), steps.preprocessing).run({spec.name: inputs[:2]})
        assert [value.shape[1:] for value in ready.values()] == [tuple(taken.shape[1:])]
        assert session.run(None, {taken.name: next(iter(ready.values()))})[0].shape == (2, classes)


@pytest.mark.parametrize("name", RECIPES)
def test_the_readme_tells_the_accuracy_of_the_committed_model(name: str) -> None:
    folder = MODELS / name
    told = re.search(r"\| 1\.1\.0 \|.*\| ([\d.]+) % \| ([\d.]+) % \|", _readme(folder))
    assert told is not None
    steps = read_steps(folder / "steps.toml")
    (raw,) = steps.inputs
    spec = TensorSpec(**{**raw, "shape": tuple(raw["shape"])})
    session = onnxruntime.InferenceSession(folder / "1.1.0.onnx")
    with np.load(folder / "evaluation.npz") as arrays:
        inputs, labels = arrays["inputs"], arrays["labels"]
    ready = Preprocessing.parse((spec,), steps.preprocessing).run({spec.name: inputs})

    scores = session.run(None, {session.get_inputs()[0].name: next(iter(ready.values()))})[0]

    if name == "vibration":  # the README tells the area under the ROC curve
        apart = scores[labels == 1, 1][:, None] - scores[labels == 0, 1][None]
        found = float((apart > 0).mean() + 0.5 * (apart == 0).mean())
    else:
        found = float((scores.argmax(1) == labels).mean())
    assert 100 * found == pytest.approx(float(told[1]), abs=0.51)


def _readme(folder: Path) -> str:
    return (folder / "README.md").read_text()


def test_a_trainer_writes_all_that_its_folder_commits(tmp_path: Path) -> None:
    said = _program("vibration", "train.py", "--out", str(tmp_path), "--epochs", "0")

    assert "vibration 1.1.0: evaluation ROC AUC" in said
    committed = {file.name for file in (MODELS / "vibration").iterdir() if file.is_file()}
    code = {"model.py", "dataset.py", "train.py", "steps.toml", "labels.txt"}
    assert {file.name for file in tmp_path.iterdir()} == committed - code
    for file in ("calibration.npz", "evaluation.npz", "acceptance.npz"):
        with np.load(tmp_path / file) as made, np.load(MODELS / "vibration" / file) as kept:
            np.testing.assert_array_equal(made["labels"], kept["labels"])
            np.testing.assert_allclose(made["inputs"], kept["inputs"], atol=0.26)


_SIZES = """
import train, torch
from training.recipe import seeded
def count(w, d): return sum(p.numel() for p in seeded(train.build, w, d).parameters())
net = seeded(train.build, 0.5, 1.0)
made = net.eval()(train.example())
print(count(0.5, 1.0) < count(1.0, 1.0) < count(1.5, 1.0), count(1.0, 1.0) <= count(1.0, 2.0))
"""


@pytest.mark.parametrize("name", SEARCHED)
def test_a_recipe_grows_with_width_and_depth(name: str) -> None:
    assert _program(name, "-c", _SIZES).split() == ["True", "True"]


def test_the_page_of_models_has_every_recipe_on_every_target() -> None:
    table = _script()
    page = (ROOT / "docs" / "models.md").read_text()

    assert table.RECIPES == RECIPES
    for name in RECIPES:
        begin, end = table.mark(name)
        lines = page.partition(begin)[2].partition(end)[0].strip().splitlines()
        assert "\n".join(lines[:2]) == table.HEAD
        assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == list(names())
        assert all(line.count(" | ") == 6 for line in lines[2:])


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", RECIPES)
def test_the_page_of_models_is_current(name: str) -> None:
    table = _script()
    page = (ROOT / "docs" / "models.md").read_text()
    begin, end = table.mark(name)

    assert page.partition(begin)[2].partition(end)[0].strip() == table.table(name, names())


def _script() -> Any:
    path = ROOT / "scripts" / "models_table.py"
    spec = importlib.util.spec_from_file_location("models_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
