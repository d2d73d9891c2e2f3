"""End to end: `edgec sensitivity` finds the layer that int8 ruins, and its options work."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import search_kit
from compiler_kit import edgec

from edgec_compiler.search.suspicion import suspicion


def test_the_layer_to_blame_comes_first_and_the_options_to_paste_keep_the_budget(
    tmp_path: Path,
) -> None:
    search_kit.write_ill_conditioned(tmp_path)
    words = (str(tmp_path / "model.onnx"), "--target", "rpi4", *search_kit.options(tmp_path))
    cache = ("--cache", str(tmp_path / "cache"))

    done = edgec("sensitivity", *words, *cache, "--json")
    assert done.code == 0, done.err
    facts = done.lines[0]
    pasted = shlex.split(facts["suggestion"]["options"])
    compiled = edgec("compile", *words, *pasted, "--out", str(tmp_path / "out"), "--json")
    few = edgec("sensitivity", *words, *cache, "--max-layers", "1", "--budget", "60")

    first, *others = facts["layers"]
    assert first["layer"] == "FULLY_CONNECTED:2"
    assert first["on"]["drop"] > 0.3
    assert first["sqnr_db"] < 3
    assert first["suspicion"] == max(row["suspicion"] for row in facts["layers"])
    assert [
        row for row in others if row["op"] == "FULLY_CONNECTED" and row["on"]["drop"] > 0.1
    ] == []
    assert facts["all"]["drop"] > 0.3
    assert facts["measured"] == len(facts["layers"]) == 6
    assert compiled.code == 0, compiled.err
    assert compiled.lines[0]["accuracy"]["compiled"] == facts["suggestion"]["accuracy"] >= 0.99
    assert "FULLY_CONNECTED:2" in few.out
    assert "5 more layers" in few.out
    assert "layer 1 of 1" in few.err


def test_a_target_without_integer_precisions_is_refused(tmp_path: Path) -> None:
    search_kit.write_ill_conditioned(tmp_path)
    model, data = str(tmp_path / "model.onnx"), str(tmp_path / "calibration.npz")

    done = edgec("sensitivity", model, "--target", "jetson-nano", "--calibration", data)

    assert done.code == 2
    assert "integer precisions" in done.err


def test_a_channel_that_drowns_in_the_others_range_is_suspected() -> None:
    draw = np.random.default_rng(0)
    even = draw.normal(size=(50, 4)).astype(np.float32)
    mixed = even * np.array([1000, 1000, 0.1, 0.1], np.float32)
    steps = [("even", even[i : i + 5]) for i in range(0, 50, 5)]
    steps += [("mixed", mixed[i : i + 5]) for i in range(0, 50, 5)]

    found = suspicion(steps, channels_last=True)

    # Two channels of four are far smaller than half a step.
    assert found["even"] < 0.001
    assert found["mixed"] == pytest.approx(0.5, abs=0.01)


def test_the_channels_of_images_are_where_the_format_has_them() -> None:
    image = np.ones((1, 3, 2, 2), np.float32) * np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    image *= np.array([1000.0, 1.0, 1.0], np.float32).reshape(1, 3, 1, 1)

    first = suspicion([("x", image)], channels_last=False)["x"]
    last = suspicion([("x", np.moveaxis(image, 1, -1))], channels_last=True)["x"]

    assert first == last == pytest.approx(2 / 3, abs=0.01)
