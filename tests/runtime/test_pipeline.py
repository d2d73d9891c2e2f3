"""One public interface, whichever runtime, layout or batch size a variant has inside."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image
from tiny_bundles import (
    FIXTURES,
    IMAGE,
    MEANS,
    VARIANTS,
    expected_means,
    images,
    manifest,
    onnx_model,
    quadrants_onnx,
    variant,
)

from edgec_bundle.archive import open_bundle, write_bundle
from edgec_bundle.manifest import Runtime, TensorSpec
from edgec_runtime import (
    FEATURES,
    InputError,
    ModelError,
    OutputError,
    Pipeline,
    RuntimeMissingError,
    SpecError,
    UnsupportedError,
    features_of,
    load_pipeline,
    open_pipeline,
    unsupported,
)

SHARED = Path(
    os.environ.get("EDGEC_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)


def load(kind: str) -> Pipeline:
    blobs, described = variant(kind)
    return load_pipeline(described, blobs.__getitem__)


@pytest.mark.parametrize("kind", VARIANTS)
@pytest.mark.parametrize("rows", [1, 2, 7, 40])
def test_every_variant_gives_the_same_outputs_for_the_same_raw_rows(kind: str, rows: int) -> None:
    batch = images(rows)

    out = load(kind).infer({"image": batch})

    assert list(out) == ["means"]
    assert (out["means"].dtype, out["means"].shape) == (np.float32, (rows, 4))
    tolerance = 1 / 255 if kind == "quadrants_int8" else 1e-6
    np.testing.assert_allclose(out["means"], expected_means(batch), atol=tolerance)


@pytest.mark.parametrize("kind", VARIANTS)
def test_classes_come_with_label_and_score(kind: str) -> None:
    found = load(kind).classify({"image": images(6)})

    assert [one.index for one in found] == [0, 1, 2, 3, 0, 1]
    assert [one.label for one in found[:4]] == [
        "top left",
        "top right",
        "bottom left",
        "bottom right",
    ]
    assert all(0.4 < one.score < 0.9 for one in found if one.score is not None)


def test_a_bundle_on_disk_opens_as_a_pipeline(tmp_path: Path) -> None:
    blobs, described = variant("onnx")
    bundle = write_bundle(
        tmp_path / "bundle",
        described,
        {role: (f"{role}.bin", data) for role, data in blobs.items()},
    )

    pipeline = open_pipeline(open_bundle(tmp_path / "bundle"))

    assert bundle.manifest.entry("model").bytes == len(blobs["model"])
    assert pipeline.classify({"image": images(1)})[0].label == "top left"


def test_image_files_and_arrays_give_the_same() -> None:
    blobs, described = variant("onnx")
    described = manifest(
        blobs,
        inputs=[TensorSpec("image", "uint8", (-1, -1, -1, 1), "image")],
        preprocessing=[
            {"op": "decode_image", "mode": "L"},
            {"op": "resize", "size": [4, 4], "filter": "box"},
            *described.preprocessing,
        ],
    )
    pipeline = load_pipeline(described, blobs.__getitem__)
    batch = images(20)
    files = []
    for row in batch:
        file = io.BytesIO()
        Image.fromarray(row[:, :, 0]).resize((8, 8), Image.Resampling.NEAREST).save(file, "PNG")
        files.append(file.getvalue())

    from_files = pipeline.infer({"image": files})

    np.testing.assert_allclose(from_files["means"], expected_means(batch), atol=1e-6)
    np.testing.assert_allclose(pipeline.infer({"image": batch})["means"], from_files["means"])


WRONG_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "input 'image': missing"),
    "another name": (
        {"image": images(1), "x": images(1)},
        "input 'x': unknown; the inputs are image",
    ),
    "another dtype": (
        {"image": images(1).astype(float)},
        "input 'image': expected uint8, got float64",
    ),
    "another shape": (
        {"image": images(1)[:, :3]},
        "expected shape [-1, 4, 4, 1], got [1, 3, 4, 1]",
    ),
    "no batch axis": ({"image": images(1)[0]}, "expected shape [-1, 4, 4, 1], got [4, 4, 1]"),
    "no rows": ({"image": images(1)[:0]}, "input 'image': expected at least one row, got none"),
    "files": ({"image": [b"png"]}, "input 'image': expected an array, got encoded files"),
    "bytes": ({"image": b"png"}, "input 'image': expected an array, got bytes"),
}


@pytest.mark.parametrize(("inputs", "message"), WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_a_wrong_input_is_refused_by_name(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        load("onnx").infer(inputs)

    assert message in str(caught.value)


def test_the_row_at_fault_is_counted_over_the_whole_input() -> None:
    blobs, _ = variant("onnx")
    described = manifest(
        blobs,
        inputs=[TensorSpec("image", "float32", (-1, 1, 4, 4))],
    )
    pipeline = load_pipeline(described, blobs.__getitem__)
    batch = np.zeros((40, 1, 4, 4), np.float32)
    batch[37, 0, 2, 1] = np.nan

    with pytest.raises(InputError) as caught:
        pipeline.infer({"image": batch})

    assert (caught.value.tensor, caught.value.row) == ("image", 37)
    assert str(caught.value) == (
        "input 'image', row 37: expected finite numbers, got nan at [0, 2, 1]"
    )


def two_ways(first: str, second: str) -> bytes:
    return onnx_model(
        [
            helper.make_node("Add", [first, second], ["sum"]),
            helper.make_node("Sub", [first, second], ["difference"]),
        ],
        {first: (TensorProto.FLOAT, ["n", 3]), second: (TensorProto.FLOAT, ["n", 3])},
        {"sum": (TensorProto.FLOAT, ["n", 3]), "difference": (TensorProto.FLOAT, ["n", 3])},
    )


PAIR = tuple(TensorSpec(name, "float32", (-1, 3), "values") for name in ("left", "right"))
SUM = TensorSpec("sum", "float32", (-1, 3), "values")
DIFFERENCE = TensorSpec("difference", "float32", (-1, 3), "values")


@pytest.mark.parametrize(
    ("runtime", "model"),
    [
        ("litert", (FIXTURES / "sums.tflite").read_bytes()),
        ("onnxruntime", two_ways("left", "right")),
    ],
    ids=["litert", "onnxruntime"],
)
@pytest.mark.parametrize("outputs", [(SUM, DIFFERENCE), (DIFFERENCE, SUM)])
def test_equal_names_match_whatever_their_order(
    runtime: str, model: bytes, outputs: tuple[TensorSpec, ...]
) -> None:
    described = manifest(
        {"model": model}, runtime=runtime, inputs=tuple(reversed(PAIR)), outputs=outputs
    )
    pipeline = load_pipeline(described, lambda role: model)
    left, right = np.full((5, 3), 5, np.float32), np.full((5, 3), 2, np.float32)

    out = pipeline.infer({"left": left, "right": right})

    assert list(out) == [spec.name for spec in outputs]
    assert (out["sum"] == 7).all()
    assert (out["difference"] == 3).all()


def test_other_names_match_by_position() -> None:
    model = two_ways("t0", "t1")
    described = manifest({"model": model}, inputs=PAIR, outputs=(SUM, DIFFERENCE))
    pipeline = load_pipeline(described, lambda role: model)

    out = pipeline.infer(
        {"left": np.full((1, 3), 5, np.float32), "right": np.full((1, 3), 2, np.float32)}
    )

    assert (out["difference"] == 3).all()


def test_steps_act_on_the_input_and_output_that_they_name() -> None:
    model = two_ways("left", "right")
    described = manifest(
        {"model": model},
        inputs=PAIR,
        outputs=(SUM, TensorSpec("difference", "int64", (-1,), "class")),
        preprocessing=[{"op": "scale", "std": 10, "input": "right"}],
        postprocessing=[{"op": "argmax", "output": "difference"}],
    )
    pipeline = load_pipeline(described, lambda role: model)

    out = pipeline.infer(
        {"left": np.array([[1, 2, 9]], np.float32), "right": np.full((1, 3), 20, np.float32)}
    )

    np.testing.assert_array_equal(out["sum"], [[3, 4, 11]])
    np.testing.assert_array_equal(out["difference"], [2])


def test_inputs_of_different_lengths_are_refused() -> None:
    model = two_ways("left", "right")
    described = manifest({"model": model}, inputs=PAIR, outputs=(SUM, DIFFERENCE))
    pipeline = load_pipeline(described, lambda role: model)

    with pytest.raises(InputError, match="input 'right': expected 2 rows as before, got 3"):
        pipeline.infer({"left": np.ones((2, 3), np.float32), "right": np.ones((3, 3), np.float32)})


def test_top_k_gives_ranked_labels() -> None:
    blobs, described = variant("onnx")
    described = manifest(
        blobs,
        outputs=[
            TensorSpec("score", "float32", (-1, 2), "scores"),
            TensorSpec("class", "int64", (-1, 2), "classes"),
        ],
        preprocessing=described.preprocessing,
        postprocessing=[
            {"op": "softmax", "output": "score"},
            {"op": "top_k", "k": 2, "output": "score", "indices": "class"},
        ],
    )
    pipeline = load_pipeline(described, blobs.__getitem__)

    outputs = pipeline.infer({"image": images(4)})
    found = pipeline.predictions(outputs)

    assert found is not None
    assert [one.label for one in found][:2] == ["top left", "top right"]
    assert found[0].score == pytest.approx(float(outputs["score"][0, 0]))


def test_a_model_without_classes_classifies_nothing() -> None:
    model = two_ways("left", "right")
    described = manifest({"model": model}, inputs=PAIR, outputs=(SUM, DIFFERENCE))
    pipeline = load_pipeline(described, lambda role: model)
    inputs = {"left": np.ones((1, 3), np.float32), "right": np.ones((1, 3), np.float32)}

    assert pipeline.predictions(pipeline.infer(inputs)) is None
    with pytest.raises(SpecError, match="does not classify"):
        pipeline.classify(inputs)


BAD_MANIFESTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "unknown feature": (
        {"features": ["resize", "teleport"]},
        UnsupportedError,
        "this runtime does not know: teleport",
    ),
    "unknown step": (
        {"preprocessing": [{"op": "sharpen"}]},
        UnsupportedError,
        "preprocessing step 1 'sharpen'",
    ),
    "an output too many": (
        {"outputs": [MEANS, TensorSpec("extra", "float32", (-1, 4))]},
        SpecError,
        "the manifest has 2 outputs for a model with 1: means",
    ),
    "no batch axis": (
        {"inputs": [TensorSpec("image", "uint8", (4, 4, 1))]},
        SpecError,
        "input 'image': expected a leading -1 for rows",
    ),
    "bytes that nothing decodes": (
        {"inputs": [TensorSpec("image", "bytes", (-1,))]},
        SpecError,
        "input 'image' is bytes, but its first step decodes nothing",
    ),
    "top_k into nowhere": (
        {"postprocessing": [{"op": "top_k", "k": 1, "indices": "where"}]},
        SpecError,
        "top_k makes 'where', which is no output",
    ),
    "a runtime from the future": (
        {"runtime": Runtime("onnxruntime", "999.0")},
        RuntimeMissingError,
        "expected onnxruntime 999.0 or newer",
    ),
    "an unknown runtime": ({"runtime": Runtime("tvm")}, RuntimeMissingError, "expected tvm"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_a_manifest_that_cannot_be_followed_is_refused(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    from dataclasses import replace

    blobs, _ = variant("onnx")
    runtime = change.pop("runtime", None)
    described = manifest(blobs, **change)
    if runtime is not None:
        described = replace(described, runtime=runtime)

    with pytest.raises(error) as caught:
        load_pipeline(described, blobs.__getitem__)

    assert message in str(caught.value)


def test_an_output_that_breaks_the_promise_is_the_models_fault() -> None:
    blobs, described = variant("onnx")
    described = manifest(
        blobs,
        outputs=[TensorSpec("means", "float32", (-1, 5))],
        preprocessing=described.preprocessing,
    )
    pipeline = load_pipeline(described, blobs.__getitem__)

    with pytest.raises(
        OutputError, match=r"output 'means': expected shape \[-1, 5\], got \[1, 4\]"
    ):
        pipeline.infer({"image": images(1)})


def test_a_tensor_that_does_not_fit_the_model_is_refused_by_name() -> None:
    blobs, _ = variant("onnx")
    pipeline = load_pipeline(manifest(blobs), blobs.__getitem__)

    with pytest.raises(InputError, match=r"input 'image': does not fit the model after preproc"):
        pipeline.infer({"image": images(1)})


def test_features_are_the_steps_and_all_of_them_are_known() -> None:
    _, described = variant("quadrants_int8")

    assert features_of(described) == ("dequantize", "quantize", "scale")
    assert set(features_of(described)) <= FEATURES
    assert unsupported(described) == ()


def test_a_closed_pipeline_says_so() -> None:
    pipeline = load("onnx")

    pipeline.close()

    with pytest.raises(ModelError, match="closed"):
        pipeline.infer({"image": images(1)})


def test_hostile_labels_are_refused() -> None:
    from edgec_runtime import DataError

    blobs, described = variant("onnx")

    with pytest.raises(DataError, match="labels: not UTF-8 at byte 1"):
        load_pipeline(described, {**blobs, "labels": b"a\xff"}.__getitem__)


PHOTOS = {
    "bird.bmp": "chickadee",
    "cat.bmp": "Egyptian cat",
    "dragonfly.bmp": "dragonfly",
    "hot_dog.jpg": "hotdog",
    "parrot.jpg": "macaw",
    "sunflower.bmp": "daisy",
}


@pytest.mark.skipif(not (SHARED / "coral").is_dir(), reason="needs the shared models and photos")
def test_real_photos_are_named_by_a_real_model() -> None:
    folder = SHARED / "coral"
    files = {
        "model": (folder / "mobilenet_v2_1.0_224_quant.tflite").read_bytes(),
        "labels": (folder / "imagenet_labels.txt").read_bytes(),
    }
    described = manifest(
        files,
        runtime="litert",
        inputs=[TensorSpec("image", "uint8", (-1, -1, -1, 3), "image")],
        outputs=[TensorSpec("probabilities", "float32", (-1, 1001), "probabilities")],
        preprocessing=[
            {"op": "decode_image", "mode": "RGB"},
            {"op": "resize", "size": [224, 224], "filter": "bilinear"},
        ],
        postprocessing=[{"op": "dequantize", "scale": 0.00390625, "zero_point": 0}],
    )
    pipeline = load_pipeline(described, files.__getitem__)

    found = pipeline.classify({"image": [(folder / name).read_bytes() for name in PHOTOS]})

    for one, expected in zip(found, PHOTOS.values(), strict=True):
        assert one.label is not None
        assert one.label.startswith(expected)


def test_only_the_public_interface_is_needed_to_use_a_fixed_batch() -> None:
    blobs = {"model": quadrants_onnx(3)}
    described = manifest(
        blobs,
        inputs=[IMAGE],
        preprocessing=[
            {"op": "scale", "std": 255},
            {"op": "layout", "from": "NHWC", "to": "NCHW"},
        ],
    )
    batch = images(4)

    out = load_pipeline(described, blobs.__getitem__).infer({"image": batch})

    np.testing.assert_allclose(out["means"], expected_means(batch), atol=1e-6)
