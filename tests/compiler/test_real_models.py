"""Real models of others, where they lie beside the checkout; skipped elsewhere."""

import os
from pathlib import Path

import numpy as np
import pytest
from compiler_kit import ROOT, edgec

from edgec_bundle.archive import open_bundle
from edgec_runtime.pipeline import open_pipeline

DATA = Path(os.environ.get("EDGEC_TEST_DATA", ROOT.parent / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs real models: set EDGEC_TEST_DATA")


def test_a_float_tflite_model_is_quantised_for_the_edge_tpu(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 32, 3)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", inputs=images)

    done = edgec(
        *("compile", str(DATA / "mlperf_tiny" / "resnet8_fp32.tflite")),
        *("--target", "coral-edgetpu", "--calibration", str(tmp_path / "samples.npz")),
        *("--out", str(tmp_path / "out"), "--json"),
    )

    assert done.code == 0, done.err
    facts = done.lines[0]
    assert facts["ops"]["total"] == 16
    assert facts["bytes"]["model"] < 0.35 * facts["bytes"]["source"]
    assert facts["agreement"] >= 0.8  # noise, not photos


def test_a_quantised_tflite_model_is_passed_through_to_classify_photos(tmp_path: Path) -> None:
    coral = DATA / "coral"
    steps = tmp_path / "steps.toml"
    steps.write_text(
        '[[inputs]]\nname = "image"\ndtype = "uint8"\nshape = [-1, 224, 224, 3]\n'
        'meaning = "image"\n[[outputs]]\nname = "scores"\nmeaning = "scores"\n'
        '[[preprocessing]]\nop = "decode_image"\n[[preprocessing]]\nop = "resize"\n'
        'size = [224, 224]\n[[postprocessing]]\nop = "dequantize"\nscale = 0.00390625\n'
    )
    model = coral / "mobilenet_v2_1.0_224_quant.tflite"

    done = edgec(
        *("compile", str(model), "--target", "generic-x86_64-tflite", "--precision", "fp32"),
        *("--preprocessing", str(steps), "--labels", str(coral / "imagenet_labels.txt")),
        *("--out", str(tmp_path / "out"), "--json"),
    )

    assert done.code == 0, done.err
    bundle = open_bundle(tmp_path / "out")
    assert bundle.read("model") == model.read_bytes()
    pipeline = open_pipeline(bundle)
    found = pipeline.classify({"image": [(coral / "parrot.jpg").read_bytes()]})[0]
    assert "macaw" in str(found.label)


def test_a_cnn_of_another_exporter_goes_through_the_hub(tmp_path: Path) -> None:
    done = edgec(
        *("compile", str(DATA / "delta" / "cnn_base_fp32.onnx"), "--target", "generic-arm64"),
        *("--precision", "fp32", "--out", str(tmp_path / "out"), "--json"),
    )

    assert done.code == 0, done.err
    assert done.lines[0]["agreement"] == 1.0
