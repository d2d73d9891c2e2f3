"""End to end: the digits model through `edgec compile`, in a process of its own."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from compiler_kit import DIGITS, DIGITS_OPTIONS, TARGETS, Compiled, edgec

from edgec_bundle.archive import open_bundle
from edgec_compiler import tflite
from edgec_runtime.evaluate import evaluate, load_data
from edgec_runtime.golden import check_golden
from edgec_runtime.pipeline import open_pipeline

JSON_KEYS = {
    *("target", "bundle", "sha256", "bytes", "precision", "accuracy", "agreement", "ops"),
    *("latency_ms", "seconds"),
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_gets_a_whole_bundle_that_classifies_digits(
    compiled: Compiled, target: str
) -> None:
    facts = compiled.facts[target]

    bundle = open_bundle(compiled.folder / target)

    bundle.verify()
    assert facts.keys() >= JSON_KEYS
    assert facts["sha256"] == bundle.digest
    assert facts["accuracy"]["compiled"] >= 0.97
    assert facts["agreement"] >= 0.98
    assert facts["bytes"]["model"] < 0.6 * facts["bytes"]["source"]
    assert facts["ops"]["total"] == 27
    assert bundle.manifest.profile == target
    assert bundle.manifest.version == "1.0.0"


@pytest.mark.parametrize("target", TARGETS)
def test_a_bundle_passes_its_own_golden_samples(compiled: Compiled, target: str) -> None:
    bundle = open_bundle(compiled.folder / target)
    optimise = target not in ("generic-arm64", "jetson-orin-nano")
    pipeline = open_pipeline(bundle, optimise=optimise)

    result = check_golden(pipeline, bundle.read("golden"), bundle.manifest.golden)

    assert result.passed
    assert result.samples == 8
    assert result.worst_error == 0


def test_every_variant_has_the_same_public_interface(compiled: Compiled) -> None:
    manifests = [open_bundle(compiled.folder / target).manifest for target in TARGETS]

    assert len({(m.inputs, m.outputs) for m in manifests}) == 1
    assert manifests[0].inputs[0].shape == (-1, 32, 32, 1)
    assert manifests[0].outputs[0].name == "probabilities"


def test_a_tflite_variant_needs_no_change_of_layout(compiled: Compiled) -> None:
    steps = open_bundle(compiled.folder / "rpi4").manifest.preprocessing

    assert [step["op"] for step in steps] == ["decode_image", "resize", "scale", "quantize"]


def test_the_edge_tpu_variant_holds_integers_only(compiled: Compiled) -> None:
    payload = open_bundle(compiled.folder / "coral-edgetpu").read("model")

    model = tflite.parse(payload, "coral")
    graph = model.subgraphs[0]
    types = {tflite.type_name(tensor) for tensor in graph.tensors}
    versions = {
        tflite.op_name(model, op): model.operatorCodes[op.opcodeIndex].version
        for op in graph.operators
    }

    assert types == {"int8", "int32"}
    assert versions["CONV_2D"] == versions["DEPTHWISE_CONV_2D"] == 3
    assert versions["FULLY_CONNECTED"] == 4
    assert "TRANSPOSE" not in versions


def test_the_reported_accuracy_is_what_the_runtime_finds(compiled: Compiled) -> None:
    pipeline = open_pipeline(open_bundle(compiled.folder / "generic-x86_64-tflite"))

    found = evaluate(pipeline, load_data(DIGITS / "evaluation.npz", pipeline.labels))

    assert found.accuracy == compiled.facts["generic-x86_64-tflite"]["accuracy"]["compiled"]


def test_latency_is_measured_where_this_machine_is_the_target_and_else_called_an_estimate(
    compiled: Compiled,
) -> None:
    for target, facts in compiled.facts.items():
        latency = facts["latency_ms"]
        assert latency["p50"] > 0
        assert latency["kind"] == ("measurement" if latency["measured"] else "estimate")
        if latency["measured"]:
            assert target.startswith("generic-x86_64") or target == "generic-arm64"
        else:
            assert latency["estimate"] is True
            assert latency["by"] == "profile's rates"
            assert latency["ms"] == latency["p50"] == latency["p99"]  # it has no distribution
    assert compiled.facts["coral-edgetpu"]["latency_ms"]["measured"] is False


@pytest.mark.parametrize("target", ["rpi4", "generic-x86_64"])
def test_every_layer_of_an_integer_model_is_near_its_float_form(
    compiled: Compiled, target: str
) -> None:
    errors = json.loads(open_bundle(compiled.folder / target).read("report"))["layer_errors"]

    assert errors["samples"] == 8
    assert len(errors["layers"]) > 10
    assert {row["op"] for row in errors["layers"]} & {"CONV_2D", "Conv"}
    assert all(row["sqnr_db"] is None or row["sqnr_db"] > 20 for row in errors["layers"])


def test_a_run_elsewhere_in_another_order_one_by_one_writes_the_same_bytes(
    compiled: Compiled, tmp_path: Path
) -> None:
    targets = ("--target", "jetson-orin-nano", "--target", "rpi4", "--target", "generic-x86_64")
    again = edgec(
        *("compile", str(DIGITS / "1.0.0.onnx"), *targets, *DIGITS_OPTIONS),
        *("--out", "elsewhere", "--jobs", "1", "--json"),
        hash_seed="77",
        cwd=tmp_path,
    )

    assert again.code == 0, again.err
    assert [line["target"] for line in again.lines] == list(targets[1::2])
    for line in again.lines:
        assert line["sha256"] == compiled.facts[line["target"]]["sha256"]


def test_a_bundle_says_nothing_of_the_machine_or_the_time(compiled: Compiled) -> None:
    for target in TARGETS:
        bundle = open_bundle(compiled.folder / target)
        pinned = [bundle.manifest_bytes, *(bundle.read(f.role) for f in bundle.manifest.files)]
        for payload in pinned:
            assert str(compiled.folder).encode() not in payload
            assert str(DIGITS).encode() not in payload
            assert not re.search(rb"20[2-9]\d-\d\d-\d\dT", payload)


def test_records_lie_beside_and_inside_the_bundle(compiled: Compiled) -> None:
    folder = compiled.folder / "generic-x86_64"
    bundle = open_bundle(folder)

    report = json.loads(bundle.read("report"))
    statement = json.loads(bundle.read("provenance"))
    bom = json.loads(bundle.read("sbom"))

    assert report["metrics"]["accuracy"]["compiled"] >= 0.97
    assert report["operators"]["by_type"]["Conv"] == 12
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"][0]["digest"]["sha256"] == bundle.manifest.entry("model").sha256
    assert bom["bomFormat"] == "CycloneDX"
    assert json.loads((folder / "measurements.json").read_text())["schema"] == 1
    page = (folder / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "http" not in page


def test_a_torch_program_compiles_without_any_data(tmp_path: Path) -> None:
    done = edgec(
        *("compile", str(DIGITS / "1.1.0.pt2"), "--target", "generic-x86_64-tflite"),
        *("--name", "digits", "--out", str(tmp_path / "b"), "--json"),
    )

    assert done.code == 0, done.err
    facts = done.lines[0]
    assert facts["precision"] == "fp16"  # int8 would need calibration
    assert facts["accuracy"] is None
    assert facts["data"] == "noise"
    assert any("fp16 instead of int8" in note for note in facts["notes"])
    pipeline = open_pipeline(open_bundle(tmp_path / "b"))
    assert pipeline.manifest.inputs[0].shape == (-1, 1, 32, 32)
    made = pipeline.infer({"x": np.zeros((2, 1, 32, 32), np.float32)})
    assert made["output"].shape == (2, 10)


def test_a_missed_budget_exits_1_and_writes_nothing(tmp_path: Path) -> None:
    samples = np.load(DIGITS / "evaluation.npz")
    np.savez(tmp_path / "noise.npz", inputs=samples["inputs"][:1] * 0)
    options = list(DIGITS_OPTIONS)
    options[options.index("--calibration") + 1] = str(tmp_path / "noise.npz")

    done = edgec(
        *("compile", str(DIGITS / "1.0.0.onnx"), "--target", "generic-arm64", *options),
        *("--precision", "int8", "--out", str(tmp_path / "out"), "--json"),
    )

    assert done.code == 1
    assert re.search(r"accuracy falls from 0\.97\d\d to 0\.\d+", done.err)
    assert "--max-accuracy-drop" in done.err
    assert "error" in done.lines[0]
    assert not (tmp_path / "out").exists()


def test_a_locked_run_refuses_other_inputs(tmp_path: Path) -> None:
    lock = tmp_path / "edgec.lock"
    common = ("--target", "generic-x86_64", "--precision", "fp32", "--out", str(tmp_path / "o"))
    model = str(DIGITS / "1.0.0.onnx")
    assert edgec("compile", model, *common, "--lock", str(lock)).code == 0

    same = edgec("compile", model, *common, "--locked", str(lock))
    other = edgec("compile", str(DIGITS / "1.1.0.onnx"), *common, "--locked", str(lock))

    assert same.code == 0
    assert other.code == 1
    assert "model: locked" in other.err
