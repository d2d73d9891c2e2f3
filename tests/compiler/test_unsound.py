"""Files that no command can use: each is told by `inspect` already."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from tflite_kit import Network

from edgec_compiler.cli import main

HEAD = '<ir_version: 9, opset_import: ["" : 17]>'
ONNX = {
    "a circle": ("g (float[4] x) => (float[4] b) { a = Add(x, b)  b = Relu(a) }", "input 'b'"),
    "an input that nothing makes": (
        "g (float[4] x) => (float[4] y) { y = Add(x, nobody) }",
        "operator Add: nothing makes its input 'nobody'",
    ),
    "an input that nothing makes, in a branch": (
        """g (bool c, float[4] x) => (float[4] y)
        { y = If(c) <then_branch = t () => (float[4] a) { a = Relu(ghost) },
                     else_branch = e () => (float[4] b) { b = Neg(x) }> }""",
        "operator Relu: nothing makes its input 'ghost'",
    ),
    "an output that nothing makes": (
        "g (float[4] x) => (float[4] y) { z = Relu(x) }",
        "nothing makes the graph's output 'y'",
    ),
    "a value made twice": (
        "g (float[4] x) => (float[4] y) { y = Relu(x)  y = Neg(x) }",
        "'y' is made twice",
    ),
}


def _told(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line that `edgec inspect` refuses a file with."""
    assert main(["inspect", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith(f"edgec: {path}: ")
    return line


@pytest.mark.parametrize(("text", "reason"), ONNX.values(), ids=ONNX)
def test_an_onnx_graph_that_does_not_hold_together_is_refused(
    text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(onnx.parser.parse_model(f"{HEAD} {text}"), tmp_path / "m.onnx")

    assert reason in _told(tmp_path / "m.onnx", capsys)


def _with_constant() -> onnx.ModelProto:
    text = f"{HEAD} g (float[1, 2] x) => (float[1, 2] y) <float[2, 2] w> {{ y = MatMul(x, w) }}"
    model = onnx.parser.parse_model(text)
    del model.graph.initializer[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w"))
    return model


@pytest.mark.parametrize(
    ("dims", "reason"),
    [([-2, -2], "negative size in [-2, -2]"), ([2, 3], "its data does not fill its shape")],
    ids=["negative", "too many"],
)
def test_a_constant_of_other_sizes_than_its_data_is_refused(
    dims: list[int], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _with_constant()
    model.graph.initializer[0].dims[:] = dims
    onnx.save(model, tmp_path / "m.onnx")

    assert reason in _told(tmp_path / "m.onnx", capsys)


def test_a_negative_size_of_an_input_is_refused_but_not_a_free_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _with_constant()
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    sizes[0].dim_value = -1
    onnx.save(model, tmp_path / "free.onnx")
    sizes[1].dim_value = -4
    onnx.save(model, tmp_path / "m.onnx")

    assert "input 'x' has a negative size in shape [-1, -4]" in _told(tmp_path / "m.onnx", capsys)
    assert main(["inspect", str(tmp_path / "free.onnx")]) == 0


def test_a_constant_that_a_file_holds_twice_does_no_harm(tmp_path: Path) -> None:
    model = _with_constant()
    model.graph.initializer.append(model.graph.initializer[0])
    onnx.save(model, tmp_path / "m.onnx")

    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0


def test_a_tflite_operator_that_reads_what_nothing_makes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Network()
    net.input([1, 4], "float32", "x")
    ghost = net.tensor("ghost", [1, 4], "float32")
    y = net.op("RELU", [ghost], net.tensor("y", [1, 4], "float32"))
    (tmp_path / "m.tflite").write_bytes(net.bytes(y))

    assert "operator RELU: nothing makes its input 'ghost'" in _told(tmp_path / "m.tflite", capsys)


def test_a_tflite_output_that_nothing_makes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = Network()
    x = net.input([1, 4], "float32", "x")
    net.op("RELU", [x], net.tensor("y", [1, 4], "float32"))
    ghost = net.tensor("ghost", [1, 4], "float32")
    (tmp_path / "m.tflite").write_bytes(net.bytes(ghost))

    assert "nothing makes the output 'ghost'" in _told(tmp_path / "m.tflite", capsys)
