"""Golden samples, acceptance sets, evaluation, agreement, latency and drift."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image
from tiny_bundles import (
    FIXTURES,
    MEANS,
    VARIANTS,
    expected_means,
    images,
    manifest,
    onnx_model,
    variant,
)

from edgec_bundle.histograms import Histogram, psi
from edgec_bundle.manifest import Golden, TensorSpec
from edgec_bundle.npz import read_npz, write_npz
from edgec_runtime import (
    Data,
    DataError,
    InputError,
    Pipeline,
    SpecError,
    UnsupportedError,
    agreement,
    agreement_by_row,
    baseline,
    check_acceptance,
    check_golden,
    evaluate,
    load_pipeline,
    measure,
    observe,
    record_golden,
)
from edgec_runtime.bench import latency_of


def load(kind: str = "onnx") -> Pipeline:
    blobs, described = variant(kind)
    return load_pipeline(described, blobs.__getitem__)


def labelled(rows: int) -> Data:
    return Data({"inputs": images(rows)}, np.arange(rows) % 4)


def backwards(pipeline: Pipeline) -> Pipeline:
    """Return a model that is really wrong: it names the darkest quadrant."""
    model = onnx_model(
        [
            helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Neg", ["f"], ["means"]),
        ],
        {"x": (TensorProto.FLOAT, ["n", 1, 4, 4])},
        {"means": (TensorProto.FLOAT, ["n", 4])},
    )
    return load_pipeline(pipeline.manifest, {"model": model, "labels": b""}.__getitem__)


@pytest.mark.parametrize("kind", VARIANTS)
def test_golden_samples_pass_where_they_were_recorded(kind: str) -> None:
    pipeline = load(kind)

    npz, golden = record_golden(pipeline, {"image": images(50)}, 8, 1e-5)
    result = check_golden(pipeline, npz, golden)

    assert (golden.samples, golden.tolerance, golden.metric) == (8, 1e-5, "max_abs_error")
    assert (result.passed, result.samples, result.failed) == (True, 8, ())
    assert result.worst_error <= 1e-6


def test_golden_samples_are_the_same_bytes_every_time() -> None:
    first = record_golden(load(), {"image": images(50)}, 8, 1e-5)

    assert record_golden(load(), {"image": images(50)}, 8, 1e-5) == first


def test_another_variant_passes_within_the_tolerance_of_its_scale() -> None:
    npz, golden = record_golden(load("quadrants"), {"image": images(50)}, 8, 1 / 255)

    result = check_golden(load("quadrants_int8"), npz, golden)

    assert result.passed
    assert 1e-6 < result.worst_error <= 1 / 255


def test_a_wrong_model_fails_every_golden_sample() -> None:
    npz, golden = record_golden(load(), {"image": images(50)}, 8, 0.01)

    result = check_golden(backwards(load()), npz, golden)

    assert not result.passed
    assert result.failed == tuple(range(8))


def test_a_changed_class_fails_even_within_the_tolerance() -> None:
    npz, golden = record_golden(load(), {"image": images(8)}, 4, 1e-5)

    result = check_golden(backwards(load()), npz, replace(golden, tolerance=1000.0))

    assert not result.passed


def test_rows_near_a_tie_are_passed_over_while_others_are_left() -> None:
    tied = np.full((40, 4, 4, 1), 100, np.uint8)
    tied[:30, :2, :2] = 101
    tied[30:, :2, :2] = 200

    npz, golden = record_golden(load(), {"image": tied}, 4, 0.01)

    assert golden.samples == 4
    kept = read_npz(npz, 1 << 20)["input/image"]
    assert (kept[:, 0, 0, 0] == 200).all()


def of_files() -> Pipeline:
    blobs, described = variant("onnx")
    described = replace(
        described,
        inputs=(TensorSpec("image", "bytes", (-1,), "image"),),
        preprocessing=({"op": "decode_image", "mode": "L"}, *described.preprocessing),
    )
    return load_pipeline(described, blobs.__getitem__)


def encoded(count: int) -> list[bytes]:
    files = []
    for row in images(count):
        file = io.BytesIO()
        Image.fromarray(row[:, :, 0]).save(file, "PNG")
        files.append(file.getvalue())
    return files


def test_golden_samples_of_files_hold_the_files() -> None:
    pipeline, files = of_files(), encoded(12)

    npz, golden = record_golden(pipeline, {"image": files}, 5, 1e-5)

    assert check_golden(pipeline, npz, golden).passed
    assert golden.samples == 5


def golden_arrays() -> dict[str, np.ndarray]:
    return {"input/image": images(2), "output/means": expected_means(images(2))}


HOSTILE_GOLDEN: dict[str, tuple[Any, str]] = {
    "no zip": (b"garbage", "golden: expected a well-formed .npz"),
    "empty": (b"", "golden: expected a well-formed .npz"),
    "no outputs": ({"input/image": images(2)}, "expected output 'means', got none"),
    "no inputs": ({"output/means": expected_means(images(2))}, "expected input 'image', got none"),
    "something more": ({**golden_arrays(), "x": np.ones(2)}, "unknown array 'x'"),
    "fewer rows": ({**golden_arrays(), "input/image": images(1)}, "one number of rows"),
    "no rows": (
        {"input/image": images(2)[:0], "output/means": np.zeros((0, 4), np.float32)},
        "one number of rows",
    ),
    "a scalar": ({**golden_arrays(), "output/means": np.float32(1)}, "one number of rows"),
    "other output shape": (
        {**golden_arrays(), "output/means": np.zeros((2, 5), np.float32)},
        "output 'means' is recorded as float32 [2, 5]",
    ),
    "sizes that lie": (
        {
            "files/image": np.zeros(4, np.uint8),
            "sizes/image": np.array([9, -5]),
            "output/means": expected_means(images(2)),
        },
        "the files of input 'image' do not match their sizes",
    ),
}


@pytest.mark.parametrize(("content", "message"), HOSTILE_GOLDEN.values(), ids=HOSTILE_GOLDEN)
def test_hostile_golden_samples_are_refused(content: Any, message: str) -> None:
    npz = content if isinstance(content, bytes) else write_npz(content)

    with pytest.raises(DataError) as caught:
        check_golden(load(), npz, Golden(2, 0.1, "max_abs_error"))

    assert message in str(caught.value)


def test_golden_samples_must_be_as_many_as_the_manifest_says() -> None:
    npz, golden = record_golden(load(), {"image": images(9)}, 3, 0.1)

    with pytest.raises(DataError, match="expected 4 samples, got 3"):
        check_golden(load(), npz, replace(golden, samples=4))


def test_an_unknown_golden_metric_is_refused() -> None:
    npz, golden = record_golden(load(), {"image": images(9)}, 3, 0.1)

    with pytest.raises(SpecError, match=r"golden\.metric: expected max_abs_error, got vibes"):
        check_golden(load(), npz, replace(golden, metric="vibes"))


def test_an_acceptance_set_accepts_the_right_and_refuses_the_wrong_model() -> None:
    npz = write_npz({"inputs": images(40), "labels": np.arange(40) % 4})

    good = check_acceptance(load("quadrants_int8"), npz, 0.9)
    bad = check_acceptance(backwards(load()), npz, 0.9)

    assert (good.passed, good.score, good.minimum, good.samples) == (True, 1.0, 0.9, 40)
    assert (bad.passed, bad.score) == (False, 0.0)


HOSTILE_ACCEPTANCE: dict[str, tuple[Any, str]] = {
    "no zip": (b"garbage", "acceptance: expected a well-formed .npz"),
    "no labels": ({"inputs": images(2)}, "expected an array 'labels'"),
    "no inputs": ({"labels": np.arange(2)}, "expected an array 'inputs'"),
    "another input": ({"sound": images(2), "labels": np.arange(2)}, "expected inputs image"),
    "float labels": ({"inputs": images(2), "labels": np.ones(2)}, "expected integer labels"),
    "fewer labels": ({"inputs": images(2), "labels": np.arange(1)}, "'inputs' has 2 rows"),
    "one-hot labels": (
        {"inputs": images(2), "labels": np.ones((2, 4), np.int64)},
        "expected labels of shape [2], got [2, 4]",
    ),
    "no rows": ({"inputs": images(2)[:0], "labels": np.arange(0)}, "expected rows in"),
}


@pytest.mark.parametrize(
    ("content", "message"), HOSTILE_ACCEPTANCE.values(), ids=HOSTILE_ACCEPTANCE
)
def test_hostile_acceptance_sets_are_refused(content: Any, message: str) -> None:
    npz = content if isinstance(content, bytes) else write_npz(content)

    with pytest.raises(DataError) as caught:
        check_acceptance(load(), npz, 0.5)

    assert message in str(caught.value)


@pytest.mark.parametrize("minimum", [-0.1, 1.1, float("nan")])
def test_a_minimum_that_is_no_fraction_is_refused(minimum: float) -> None:
    npz = write_npz({"inputs": images(4), "labels": np.arange(4)})

    with pytest.raises(DataError, match=r"expected a minimum in 0\.\.1"):
        check_acceptance(load(), npz, minimum)


def test_an_unknown_acceptance_metric_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="acceptance metric 'vibes'"):
        check_acceptance(load(), b"", 0.5, "vibes")


def test_evaluation_counts_what_is_right_and_tells_how_far_it_is() -> None:
    data = labelled(100)
    wrong = replace(data, labels=np.where(np.arange(100) < 25, 9, data.labels))
    told: list[tuple[int, int]] = []

    result = evaluate(load(), wrong, lambda done, total: told.append((done, total)))

    assert (result.samples, result.accuracy) == (100, 0.75)
    assert told[-1] == (100, 100)


def test_a_refused_row_is_told_by_its_number_or_by_its_file() -> None:
    files = encoded(100)
    files[70] = files[70][:40]
    names = tuple(f"{i}.png" for i in range(100))

    with pytest.raises(InputError, match="row 70: decode_image: cannot decode"):
        evaluate(of_files(), Data({"image": files}))
    with pytest.raises(DataError, match=r"^70\.png: decode_image: cannot decode"):
        evaluate(of_files(), Data({"image": files}, None, names))


def test_without_labels_there_is_no_accuracy() -> None:
    result = evaluate(load(), Data({"inputs": images(5)}))

    assert result.accuracy is None
    assert result.predictions is not None
    np.testing.assert_array_equal(result.predictions, [0, 1, 2, 3, 0])


def test_agreement_is_the_share_of_equal_classes() -> None:
    one = evaluate(load("onnx"), labelled(20))

    assert agreement(one, evaluate(load("quadrants_int8"), labelled(20))) == 1.0
    assert agreement(one, evaluate(backwards(load()), labelled(20))) == 0.0
    with pytest.raises(ValueError, match="20 and 5 samples"):
        agreement(one, evaluate(load(), labelled(5)))


def values_manifest() -> tuple[bytes, Any]:
    model = (FIXTURES / "sums.tflite").read_bytes()
    names = ("left", "right"), ("sum", "difference")
    inputs, outputs = (
        [TensorSpec(n, "float32", (-1, 3), "values") for n in part] for part in names
    )
    return model, manifest({"model": model}, runtime="litert", inputs=inputs, outputs=outputs)


def test_models_without_classes_agree_by_their_values() -> None:
    model, described = values_manifest()
    pipeline = load_pipeline(described, lambda role: model)
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    data = Data({"left": rows, "right": rows + 1}, np.arange(4))

    result = evaluate(pipeline, data)

    assert result.accuracy is None
    assert result.predictions is None
    assert agreement(result, result) == 1.0
    assert result.outputs is not None
    near = {name: value * 1.05 for name, value in result.outputs.items()}
    far = {name: value * 1.5 for name, value in result.outputs.items()}
    assert agreement_by_row(described, result.outputs, near).tolist() == [1, 1, 1, 1]
    assert agreement_by_row(described, result.outputs, far).tolist() == [0, 0, 0, 0]


def test_maps_agree_to_the_share_of_equal_places() -> None:
    _, described = variant("onnx")
    described = replace(
        described, outputs=(TensorSpec("map", "int64", (-1, 2, 2), "segmentation"),)
    )
    one = {"map": np.array([[[1, 2], [3, 4]]])}
    other = {"map": np.array([[[1, 2], [3, 0]]])}

    assert agreement_by_row(described, one, other).tolist() == [0.75]


def test_one_row_more_or_less_never_changes_an_answer() -> None:
    pipeline = load()
    batch = images(37)

    whole = pipeline.infer({"image": batch})["means"]
    single = np.concatenate([pipeline.infer({"image": row[None]})["means"] for row in batch])

    np.testing.assert_allclose(whole, single, atol=1e-6)


def test_measuring_gives_ordered_quantiles_and_this_process_peak() -> None:
    found = measure(load("quadrants"), {"image": images(3)}, runs=20, warmup=1)

    latency = found.latency_ms
    assert 0 < latency.p50 <= latency.p95 <= latency.p99
    assert latency.runs == 20
    assert found.memory_bytes > 10 << 20


def test_quantiles_are_durations_that_occurred() -> None:
    found = latency_of([float(n) for n in range(100, 0, -1)])

    assert (found.p50, found.p95, found.p99) == (50, 95, 99)
    assert latency_of([3.0]).p99 == 3.0


def test_the_baseline_counts_every_row_once_per_signal() -> None:
    found = baseline(load(), Data({"inputs": images(200)}))

    assert set(found) == {"input.image.mean", "class"}
    for raw in found.values():
        assert Histogram.from_dict(raw).total == 200
    assert Histogram.from_dict(found["class"]).counts == (50, 50, 50, 50)


def test_probabilities_have_a_confidence() -> None:
    blobs, described = variant("onnx")
    described = replace(
        described,
        outputs=(replace(MEANS, meaning="probabilities"),),
        postprocessing=({"op": "softmax"},),
    )
    pipeline = load_pipeline(described, blobs.__getitem__)

    found = baseline(pipeline, Data({"inputs": images(30)}))

    assert Histogram.from_dict(found["confidence"]).edges[0] == 0
    assert Histogram.from_dict(found["confidence"]).edges[-1] == 1


def test_a_darker_world_shows_as_drift_and_the_same_world_does_not() -> None:
    pipeline = load()
    expected = baseline(pipeline, Data({"inputs": images(400)}))

    def seen(batch: np.ndarray) -> dict[str, float]:
        counted = observe(pipeline, {"image": batch}, pipeline.infer({"image": batch}))
        reference = {name: Histogram.from_dict(raw) for name, raw in expected.items()}
        return {
            name: psi(known, Histogram.from_samples(counted[name], known.edges))
            for name, known in reference.items()
        }

    same, darker = seen(images(400, seed=1)), seen(images(400, seed=1) // 3)

    assert max(same.values()) < 0.1
    assert darker["input.image.mean"] > 0.25
    assert darker["class"] < 0.1


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_a_float_input_always_gets_edges_that_hold_its_baseline(means: list[float]) -> None:
    model, described = values_manifest()
    pipeline = load_pipeline(described, lambda role: model)
    rows = np.repeat(np.array(means, np.float32)[:, None], 3, axis=1)

    found = baseline(pipeline, Data({"left": rows, "right": np.zeros_like(rows)}))

    histogram = Histogram.from_dict(found["input.left.mean"])
    assert histogram.total == len(means)
    assert histogram.edges[0] <= rows.min()
    assert rows.max() <= histogram.edges[-1]
