"""End to end: --precision auto on a network that int8 ruins in one place."""

import json
from pathlib import Path

import numpy as np
import pytest
import search_kit
from compiler_kit import Finished, edgec

from edgec_bundle.archive import open_bundle


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ill")
    search_kit.write_ill_conditioned(folder)
    return folder


def _compile(ill: Path, *more: str) -> Finished:
    model = str(ill / "model.onnx")
    return edgec("compile", model, *search_kit.options(ill), "--json", *more)


def test_layers_stay_in_float_where_int8_fails_and_an_interrupted_search_goes_on(
    ill: Path, tmp_path: Path
) -> None:
    cache = ("--cache", str(tmp_path / "cache"))
    cut = _compile(ill, "--target", "rpi4", "--max-candidates", "3", *cache, "--out", "unused")
    done = _compile(
        *(
            ill,
            "--target",
            "rpi4",
            "--target",
            "coral-edgetpu",
            "--target",
            "generic-arm64",
            *cache,
        ),
        *("--out", str(tmp_path / "out")),
    )
    fresh = _compile(ill, "--target", "rpi4", "--no-cache", "--out", str(tmp_path / "fresh"))

    # Cut short, nothing is written, and what is to blame can be pasted.
    assert cut.code == 1
    told = cut.lines[0]
    assert told["best"]["precision"] == "int8"
    assert told["best"]["drop"] > 0.3
    assert len(told["search"]["candidates"]) == 3
    assert told["blame"][0]["option"] == "--float-layer FULLY_CONNECTED:2"
    assert "--max-candidates ended the search" in cut.err
    assert not Path("unused").exists()

    # With more candidates it finds a mix for both formats.
    lines = {line["target"]: line for line in done.lines}
    for facts in (lines["rpi4"], lines["generic-arm64"]):
        rows = facts["search"]["candidates"]
        chosen = [row for row in rows if row["chosen"]]
        assert len(chosen) == 1
        assert chosen[0]["precision"] == facts["precision"] == "int8"
        assert chosen[0]["float_layers"]
        assert chosen[0]["front"]
        assert facts["accuracy"]["compiled"] >= 0.99
        assert rows[0]["drop"] > 0.3

    # A target without floats has no such way: what is to blame is named, and nothing is written.
    assert done.code == 1
    told = lines["coral-edgetpu"]
    assert told["best"]["precision"] == "int8"
    assert told["blame"][0]["layer"] == "FULLY_CONNECTED:2"
    assert told["blame"][0]["option"] is None
    assert "integers only" in told["error"]
    assert len(told["search"]["candidates"]) == 7
    assert not (tmp_path / "out" / "coral-edgetpu").exists()

    # What was judged by an earlier run has no say in the bytes, and the table is pinned.
    bundle = open_bundle(tmp_path / "out" / "rpi4")
    assert fresh.lines[0]["sha256"] == bundle.digest
    report = json.loads(bundle.read("report"))
    assert report["search"]["candidates"] == lines["rpi4"]["search"]["candidates"]


def test_without_labels_agreement_is_searched_for_if_a_limit_is_given(
    ill: Path, tmp_path: Path
) -> None:
    data = np.load(ill / "evaluation.npz")
    np.savez(tmp_path / "unlabelled.npz", inputs=data["inputs"][:50])
    unlabelled = ("--evaluation", str(tmp_path / "unlabelled.npz"))
    target = ("--target", "generic-x86_64", "--out", str(tmp_path / "out"))

    plain = _compile(ill, *target, *unlabelled)
    limited = _compile(ill, *target, *unlabelled, "--max-accuracy-drop", "0.02")

    assert "search" not in plain.lines[0]
    assert plain.lines[0]["precision"] == "int8"
    assert limited.lines[0]["search"]["judged_by"] == "agreement"
    assert limited.lines[0]["agreement"] >= 0.98


def test_a_dry_run_says_what_would_be_tried(ill: Path) -> None:
    done = _compile(ill, "--target", "rpi4", "--dry-run")
    without = edgec("compile", str(ill / "model.onnx"), "--target", "rpi4", "--dry-run")

    assert done.lines[0]["tries"][:3] == ["int8", "fp16", "fp32"]
    assert "without --evaluation DATA nothing is searched" in without.out
