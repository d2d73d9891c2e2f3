"""From the command line to the file: bundles are smaller, zeros are zeros, errors are told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from compiler_kit import DIGITS, DIGITS_OPTIONS, Compiled, Finished, edgec
from nets import IMAGE, Net
from onnx import numpy_helper
from quantise_kit import forms_of

from edgec_bundle.archive import open_bundle
from edgec_compiler import tflite
from edgec_compiler.cli import main
from edgec_compiler.compress.constants import values_of
from edgec_compiler.compress.lessons import prepare
from edgec_compiler.compress.running import compress_forms
from edgec_compiler.compress.stage import Surroundings, compress
from edgec_compiler.compress.wanted import Wanted
from edgec_compiler.forms import Forms
from edgec_compiler.judging import run_over, source_pipeline
from edgec_compiler.options import CompileOptions
from edgec_compiler.recipe import Recipe
from edgec_compiler.variants import make_variant
from edgec_hardware_profiles import load

PRUNED = ("--prune", "0.4", "--recover-epochs", "4", "--max-accuracy-drop", "0.9")
MODEL = str(DIGITS / "1.0.0.onnx")


def _compile(out: Path, *options: str, hash_seed: str | None = None) -> Finished:
    return edgec(
        *("compile", MODEL, *DIGITS_OPTIONS, *options, "--out", str(out), "--json"),
        hash_seed=hash_seed,
    )


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    folder = tmp_path_factory.mktemp("pruned") / "digits"
    targets = ("--target", "rpi4", "--target", "generic-x86_64")
    done = _compile(folder, *targets, *PRUNED)
    assert done.code == 0, done.err
    return folder, done


def test_pruned_bundles_are_smaller_in_both_formats(
    pruned: tuple[Path, Finished], compiled: Compiled
) -> None:
    for line in pruned[1].lines:
        whole = compiled.facts[line["target"]]
        assert line["bytes"]["model"] < 0.85 * whole["bytes"]["model"]
        compression = line["compression"]
        assert 0.3 < compression["achieved"]["params"] <= 0.4
        assert compression["macs"]["after"] < 0.85 * compression["macs"]["before"]
        assert compression["file"]["bytes"] == line["bytes"]["model"]
        assert compression["quality"]["compressed"]["accuracy"] > 0.5


def test_the_report_and_the_lineage_say_what_was_done(pruned: tuple[Path, Finished]) -> None:
    bundle = open_bundle(pruned[0] / "rpi4")

    report = json.loads(bundle.read("report"))["compression"]

    assert report["requested"] == {"prune": 0.4, "pattern": "structured", "recover_epochs": 4}
    assert report["training"][0]["epochs"] == 4
    assert report["training"][0]["labelled"] is True
    assert report["evaluated"] == {
        "data": "evaluation",
        "samples": 450,
        "source_accuracy": bundle.manifest.metrics["accuracy"]["source"],
    }
    assert bundle.manifest.lineage["options"]["compression"] == report["requested"]


def test_a_pruned_bundle_is_the_same_without_the_other_target(
    pruned: tuple[Path, Finished], tmp_path: Path
) -> None:
    again = _compile(tmp_path / "b", "--target", "rpi4", *PRUNED, hash_seed="77")

    assert again.lines[0]["sha256"] == pruned[1].lines[0]["sha256"]


def test_the_gate_judges_against_the_source_model(tmp_path: Path) -> None:
    too_much = ("--prune", "0.8", "--recover-epochs", "0")
    done = _compile(tmp_path / "b", "--target", "rpi4", *too_much)

    assert done.code == 1
    (told,) = done.lines
    assert told["search"]["stopped"] == "compression"
    assert len(told["search"]["candidates"]) == 1  # none of the others can be any better
    assert "accuracy falls from 0.97" in done.err
    assert "Compression alone loses 0." in done.err
    assert "--float-layer" not in done.err
    assert not (tmp_path / "b").exists()


def _forms(**options: object) -> Forms:
    """Return the forms of a small net after compression, calibrated with noise."""
    torch.manual_seed(0)
    forms = forms_of(Net(["Residual"], width=16))
    graph, samples = forms.graph(), forms.calibration_samples()
    given = Surroundings(
        wanted=Wanted(**options),  # type: ignore[arg-type]
        interface=forms.interface,
        example=(torch.zeros(IMAGE),),
        data=prepare(samples, forms.source, forms.interface),
        weight_bits=4,
        rounds_activations=True,
        per_channel=True,
        seed=0,
        say=lambda _step: None,
        quality=None,
    )
    made = compress(graph, given)
    forms.replace_graph(made.graph, made.facts)
    return forms


@pytest.mark.parametrize("origin", ["calibration", "evaluation"])
def test_what_was_judged_by_its_own_lessons_says_so(origin: str) -> None:
    forms = forms_of(Net(["Residual"], width=16))
    samples = replace(forms.calibration_samples(), origin=origin)
    expected = run_over(source_pipeline(forms.source, forms.interface, ()), samples)
    wanted = Wanted(prune=0.3, recover_epochs=1)
    options = CompileOptions("m.onnx", ("rpi4",), "out", calibration="c.npz", compress=wanted)

    compress_forms(options, forms, samples, expected, ())

    told = (forms.compression or {})["compared"]
    assert ("judged by the samples that it learned from" in told) == (origin == "calibration")


def _tflite_weights(payload: bytes) -> list[np.ndarray]:
    """Return the kernels of convolutions and linear layers, as integers."""
    model = tflite.parse(payload, "made")
    graph, found = model.subgraphs[0], []
    for op in graph.operators:
        if tflite.op_name(model, op) in ("CONV_2D", "FULLY_CONNECTED"):
            tensor = graph.tensors[op.inputs[1]]
            raw = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
            if tflite.type_name(tensor) == "int4":
                nibbles = np.stack([raw & 15, raw >> 4], 1).reshape(-1)
                raw = np.where(nibbles > 7, nibbles.astype(np.int8) - 16, nibbles)
            found.append(raw.astype(np.int8).reshape(-1)[: int(np.prod(tensor.shape))])
    return found


_SCRIPT = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 4)
    return nn.Sequential(*layers), (torch.zeros(1, 3, 8, 8),)

def tune(module, teacher):
    x = torch.randn(8, 3, 8, 8)
    (module(x) - teacher(x)).square().mean().backward()
"""


def test_a_program_of_torch_is_pruned_and_trained_by_the_users_function(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(_SCRIPT)
    made: dict[str, Any] = {}
    exec(_SCRIPT, made)
    module, example = made["make"]()
    torch.export.save(torch.export.export(module.eval(), example), tmp_path / "net.pt2")
    images = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", inputs=images)

    done = edgec(
        *("compile", "net.pt2", "--target", "rpi4", "--calibration", "images.npz", "--json"),
        *("--prune", "0.4", "--fine-tune", "net.py:tune", "--out", "out"),
        cwd=tmp_path,
    )

    assert done.code == 0, done.err
    (line,) = done.lines
    assert 0.3 < line["compression"]["achieved"]["params"] <= 0.4
    assert line["compression"]["training"][0]["by"] == "function"


def test_zeros_and_twos_of_four_are_zeros_in_the_integers_of_both_formats() -> None:
    forms = _forms(prune=0.5, pattern="2:4", recover_epochs=1)

    in_tflite = make_variant(forms, load("rpi4"), "tflite", Recipe("int8"))
    in_onnx = make_variant(forms, load("generic-arm64"), "onnx", Recipe("int8"))

    kernels = _tflite_weights(in_tflite.payload)
    assert sum(int((k == 0).sum()) for k in kernels) >= 0.4 * sum(k.size for k in kernels)
    model = onnx.ModelProto.FromString(in_onnx.payload)
    integers = [numpy_helper.to_array(i) for i in model.graph.initializer if len(i.dims) == 4]
    sparse = [k for k in integers if k.dtype == np.int8 and k.shape[1] % 4 == 0]
    assert len(sparse) == 2
    for kernel in sparse:
        fours = np.moveaxis(kernel, 1, -1).reshape(-1, 4)
        assert ((fours == 0).sum(1) >= 2).all()


def test_four_bit_weights_of_the_file_are_those_that_training_ended_with() -> None:
    forms = _forms(qat=True, recover_epochs=2)
    values = values_of(forms.graph())
    weight = next(value for name, value in values.items() if name.endswith("stem.weight"))
    scale = weight.abs().amax((1, 2, 3), keepdim=True) / 7

    made = make_variant(forms, load("rpi4"), "tflite", Recipe("int4"))

    wanted = (weight / scale).round().permute(0, 2, 3, 1).reshape(-1).numpy()
    assert any(np.array_equal(kernel, wanted) for kernel in _tflite_weights(made.payload))


def test_a_clustered_file_holds_few_integers_per_layer() -> None:
    forms = _forms(cluster=16, recover_epochs=1)

    made = make_variant(forms, load("rpi4"), "tflite", Recipe("int8"))

    assert all(len(np.unique(kernel)) <= 16 for kernel in _tflite_weights(made.payload))


USAGE = {
    "no share": (("--prune", "1.5"), "--prune: expected a share of the parameters"),
    "two of four is half": (("--prune", "0.3", "--prune-pattern", "2:4"), "--prune 0.5"),
    "a pattern alone": (("--prune-pattern", "2:4"), "say how much with --prune RATIO"),
    "too few centroids": (("--cluster", "4"), "--cluster: expected 16 to 256"),
    "no function": (("--prune", "0.3", "--fine-tune", "x.py"), "expected FILE.py:FUNCTION"),
    "no file": (("--prune", "0.3", "--fine-tune", "x.py:f"), "--fine-tune x.py: no such file"),
    "floats": (("--qat", "--precision", "fp32"), "--qat trains for integers, but rpi4 gets fp32"),
    "no training": (("--qat", "--recover-epochs", "0"), "leaves it nothing to do"),
    "nothing to control": (("--control",), "none is given"),
}


@pytest.mark.parametrize("name", USAGE)
def test_options_that_make_no_sense_exit_2(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = USAGE[name]
    data = ("--calibration", str(DIGITS / "calibration.npz"))

    code = main(
        ["compile", MODEL, "--target", "rpi4", *data, *options, "--out", str(tmp_path / "o")]
    )

    assert code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_training_without_samples_names_the_ways_out(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["compile", MODEL, "--target", "generic-x86_64-tflite", "--prune", "0.5"])

    assert code == 2
    said = capsys.readouterr().err
    assert all(way in said for way in ("--calibration", "--fine-tune", "--recover-epochs 0"))


def test_a_tflite_file_is_refused_with_the_way_out(
    compiled: Compiled, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(compiled.folder / "rpi4" / "model.tflite")

    code = main(["compile", model, "--target", "rpi4", "--prune", "0.5", "--recover-epochs", "0"])

    assert code == 2
    assert "start from the ONNX, PyTorch or Keras model" in capsys.readouterr().err


def test_a_dry_run_shows_what_would_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--calibration", str(DIGITS / "calibration.npz"))
    data += ("--preprocessing", str(DIGITS / "steps.toml"))

    code = main(
        ["compile", MODEL, "--target", "rpi4", *data, "--prune", "0.5", "--dry-run", "--json"]
    )

    assert code == 0
    wanted = {"prune": 0.5, "pattern": "structured"}
    assert json.loads(capsys.readouterr().out)["compression"] == wanted
