"""Models load from bytes on either runtime, run from many threads, and refuse what is no model."""

import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tiny_bundles import FIXTURES, onnx_model, quadrants_onnx

from edgec_runtime import ModelError, RuntimeMissingError, installed_runtimes, load_session
from edgec_runtime.backends._external import reads_other_files
from edgec_runtime.session import require_runtime

TFLITE = (FIXTURES / "quadrants.tflite").read_bytes()
LOADABLE = {"onnxruntime": quadrants_onnx(1), "litert": TFLITE}
NOT_MODELS = {
    "nothing": b"",
    "text": b"this is not a model",
    "zeros": bytes(4096),
    "the other format": None,
    "half a model": None,
}


@pytest.mark.parametrize("runtime", LOADABLE)
@pytest.mark.parametrize("optimise", [True, False])
def test_a_model_says_what_it_takes_and_gives(runtime: str, optimise: bool) -> None:
    session = load_session(LOADABLE[runtime], runtime, optimise=optimise)

    (pixels,), (means,) = session.inputs, session.outputs

    shape = (1, 1, 4, 4) if runtime == "onnxruntime" else (1, 4, 4, 1)
    assert (pixels.name, pixels.dtype, pixels.shape) == ("pixels", "float32", shape)
    assert (means.name, means.dtype, means.shape) == ("means", "float32", (1, 4))
    out = session.run({"pixels": np.ones(shape, np.float32)})
    np.testing.assert_allclose(out["means"], np.ones((1, 4)))


def test_a_quantised_model_tells_scale_and_zero_point() -> None:
    session = load_session((FIXTURES / "quadrants_int8.tflite").read_bytes(), "litert")

    (tensor,) = session.inputs

    assert (tensor.dtype, tensor.zero_point) == ("int8", -128)
    assert tensor.scale == pytest.approx(1 / 255)


def test_free_axes_are_minus_one() -> None:
    session = load_session(quadrants_onnx("batch"), "onnxruntime")

    assert session.inputs[0].shape == (-1, 1, 4, 4)


@pytest.mark.parametrize("runtime", LOADABLE)
@pytest.mark.parametrize("name", NOT_MODELS)
def test_what_is_no_model_is_refused(runtime: str, name: str) -> None:
    other = "litert" if runtime == "onnxruntime" else "onnxruntime"
    made = {"the other format": LOADABLE[other], "half a model": LOADABLE[runtime][:100]}
    payload = NOT_MODELS[name] if NOT_MODELS[name] is not None else made[name]

    with pytest.raises(ModelError, match="cannot load the model"):
        load_session(payload, runtime)


def leaking_model(location: str, where: str) -> bytes:
    """Return an ONNX file that adds four numbers out of another file to its input."""
    weights = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    weights.external_data.add(key="location", value=location)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    add = helper.make_node("Add", ["x", "w"], ["y"])
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.append(
        onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, t=weights)
    )
    if where == "initializer":
        graph = helper.make_graph([add], "leak", [x], [y], [weights])
    elif where == "constant":
        graph = helper.make_graph([constant, add], "leak", [x], [y])
    else:
        inner = helper.make_graph([constant, add], "inner", [], [y])
        branch = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)
        yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
        graph = helper.make_graph([branch], "leak", [x], [y], [yes])
    opset = helper.make_opsetid("", 17)
    model: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    return model


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("where", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("location", ["secret", "../{folder}/secret", "{path}"])
def test_a_model_cannot_read_files_of_the_device(
    location: str, where: str, optimise: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    place = location.format(folder=tmp_path.name, path=tmp_path / "secret")

    with pytest.raises(ModelError, match="keeps tensors in other files"):
        load_session(leaking_model(place, where), "onnxruntime", optimise=optimise)


def test_onnx_runtimes_own_format_is_refused() -> None:
    with pytest.raises(ModelError, match="ONNX Runtime's own format"):
        load_session(b"\0\0\0\0ORTM" + bytes(100), "onnxruntime")


@given(st.binary(max_size=200))
def test_any_bytes_are_searched_for_other_files_or_refused(payload: bytes) -> None:
    with suppress(ValueError):
        assert reads_other_files(payload) in (True, False)


@given(st.data())
def test_a_damaged_model_is_searched_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(leaking_model("secret", "branch"))
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))

    with suppress(ValueError):
        assert reads_other_files(bytes(damaged)) in (True, False)


def test_a_model_of_text_is_refused() -> None:
    model = onnx_model(
        [helper.make_node("Identity", ["x"], ["y"])],
        {"x": (TensorProto.STRING, [1])},
        {"y": (TensorProto.STRING, [1])},
    )

    with pytest.raises(ModelError, match=r"tensor 'x' has type tensor\(string\)"):
        load_session(model, "onnxruntime")


WRONG_FEEDS = {
    "no tensor": ({}, "expected tensors \\['pixels'\\]"),
    "another name": ({"x": np.ones((1, 1, 4, 4), np.float32)}, "expected tensors"),
    "another dtype": ({"pixels": np.ones((1, 1, 4, 4))}, "expected float32, got float64"),
    "another shape": ({"pixels": np.ones((1, 1, 4, 5), np.float32)}, "got \\(1, 1, 4, 5\\)"),
    "another rank": ({"pixels": np.ones((4, 4), np.float32)}, "got \\(4, 4\\)"),
}


@pytest.mark.parametrize(("feeds", "message"), WRONG_FEEDS.values(), ids=WRONG_FEEDS)
def test_wrong_feeds_are_refused(feeds: dict[str, np.ndarray], message: str) -> None:
    session = load_session(LOADABLE["onnxruntime"], "onnxruntime")

    with pytest.raises(ModelError, match=message):
        session.run(feeds)


@pytest.mark.parametrize("runtime", LOADABLE)
def test_threads_never_see_each_others_results(runtime: str) -> None:
    session = load_session(LOADABLE[runtime], runtime)
    shape = tuple(abs(size) for size in session.inputs[0].shape)
    wrong: list[tuple[int, float]] = []

    def work(number: int) -> None:
        for _ in range(200):
            out = session.run({"pixels": np.full(shape, number, np.float32)})
            if not np.array_equal(out["means"], np.full((1, 4), number, np.float32)):
                wrong.append((number, float(out["means"][0, 0])))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


@pytest.mark.parametrize("runtime", LOADABLE)
def test_a_closed_session_runs_no_more(runtime: str) -> None:
    session = load_session(LOADABLE[runtime], runtime)
    feeds = {"pixels": np.ones(session.inputs[0].shape, np.float32)}
    session.run(feeds)

    session.close()
    session.close()

    with pytest.raises(ModelError, match="closed"):
        session.run(feeds)


@pytest.mark.parametrize(
    ("runtime", "delegate"),
    [
        ("onnxruntime", "tensorrt"),
        ("onnxruntime", "cuda"),
        ("litert", "edgetpu"),
        ("litert", "vx"),
        ("onnxruntime", "qnn"),
        ("litert", "npu"),
    ],
)
def test_an_absent_accelerator_falls_back_to_the_cpu_and_says_so(
    runtime: str, delegate: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = load_session(LOADABLE[runtime], runtime, delegate=delegate)

    assert "cpu" in session.delegates
    assert delegate not in session.delegates
    assert "runs on" in caplog.text


def test_an_unknown_runtime_is_missing() -> None:
    with pytest.raises(RuntimeMissingError, match="expected tvm, found none"):
        load_session(b"", "tvm")


def test_a_runtime_that_is_too_old_is_refused() -> None:
    found = installed_runtimes()["onnxruntime"]

    require_runtime("onnxruntime", "1.18")
    require_runtime("onnxruntime", found)
    with pytest.raises(
        RuntimeMissingError, match=f"expected onnxruntime 999.0 or newer, found {found}"
    ):
        require_runtime("onnxruntime", "999.0")
