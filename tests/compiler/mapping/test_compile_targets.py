"""`edgec compile` for targets with a compiler of their own: one run, from ONNX to bundles."""

import json
from pathlib import Path

import numpy as np
import pytest
from compiler_kit import DIGITS, DIGITS_OPTIONS, edgec

from edgec_bundle.archive import open_bundle
from edgec_compiler.cli import main
from edgec_compiler.mapping import vela

pytestmark = pytest.mark.skipif(not vela.is_installed(), reason="needs the extra vela")
TARGETS = ("ethos-u55-128", "cortex-m7", "rk3588")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, object]]]:
    folder = tmp_path_factory.mktemp("targets") / "digits"
    wanted = [word for target in TARGETS for word in ("--target", target)]
    model = str(DIGITS / "1.0.0.onnx")
    done = edgec("compile", model, *wanted, *DIGITS_OPTIONS, "--out", str(folder), "--json")
    assert done.code == 0, done.err
    return folder, {line["target"]: line for line in done.lines}


def test_an_npu_bundle_holds_the_binary_and_the_portable_reference(
    made: tuple[Path, dict[str, dict[str, object]]], tmp_path: Path
) -> None:
    folder, facts = made
    bundle = open_bundle(folder / "ethos-u55-128")
    manifest = bundle.manifest

    assert b"ethos-u" in bundle.read("model")
    assert b"ethos-u" not in bundle.read("reference")
    assert (manifest.runtime.name, manifest.runtime.delegate) == ("tflite-micro", "ethosu")
    assert facts["ethos-u55-128"]["ops"] == {"total": 27, "accelerated": 27}
    latency = facts["ethos-u55-128"]["latency_ms"]
    assert isinstance(latency, dict)
    assert latency["measured"] is False
    report = json.loads(bundle.read("report"))
    assert report["mapping"]["basis"] == "compiled"
    assert report["estimates"]["inference_ms"] == pytest.approx(latency["p50"], abs=1e-6)
    assert "as its compiler made it" in (folder / "ethos-u55-128" / "report.html").read_text()

    np.save(tmp_path / "x.npy", np.load(DIGITS / "evaluation.npz")["inputs"][:1])
    run = edgec("run", str(folder / "ethos-u55-128"), "--input", str(tmp_path / "x.npy"), "--json")

    assert run.code == 0, run.err
    assert run.lines[0]["class"] in range(10)


def test_a_microcontrollers_bundle_holds_c_sources_and_runs_here_on_litert(
    made: tuple[Path, dict[str, dict[str, object]]], capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = open_bundle(made[0] / "cortex-m7")
    data = str(DIGITS / "evaluation.npz")

    assert main(["evaluate", str(bundle.path), "--data", data]) == 0

    said = capfd.readouterr()
    assert "accuracy 0.9" in said.out
    assert said.err.splitlines() == [
        f"edgec: {bundle.path}: cortex-m7 runs it on TFLite Micro; here LiteRT interprets the same "
        "file"
    ]
    runtime = bundle.manifest.runtime
    assert (runtime.name, runtime.min_version) == ("tflite-micro", "1.0")

    assert b"kEdgecArenaBytes" in bundle.read("header")
    assert b"edgec_model[]" in bundle.read("source")
    assert {entry.role for entry in bundle.manifest.shipped()} == {"model", "labels", "golden"}


def test_without_the_vendors_program_the_portable_model_is_bundled_and_said_so(
    made: tuple[Path, dict[str, dict[str, object]]],
) -> None:
    folder, facts = made
    bundle = open_bundle(folder / "rk3588")

    assert (bundle.manifest.format, bundle.manifest.runtime.name) == ("onnx", "onnxruntime")
    notes = facts["rk3588"]["notes"]
    assert isinstance(notes, list)
    assert any("rknn_convert was not found on PATH" in note for note in notes)


def test_a_bundle_of_onnx_is_checked_like_a_file(
    made: tuple[Path, dict[str, dict[str, object]]],
) -> None:
    done = edgec("check", str(made[0] / "rk3588"), "--target", "rk3588", "--json")

    assert done.code == 0, done.err
    facts = done.lines[0]
    assert facts["total"] == len(facts["ops"])
    assert {"DequantizeLinear", "Conv"} <= {op["op"] for op in facts["ops"]}
