"""`edgec check`: the JSON that is fixed, the words for people, and what is refused."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from tflite_kit import ROOT, Network, options, relu

from edgec_compiler.cli import main

DIGITS = str(ROOT / "models" / "digits" / "1.0.0.onnx")
NET = str(ROOT / "models" / "digits" / "model.py")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = Network()
    shape = [1, 1, 1, 4]
    a = relu(network, network.input(shape), "a", shape)
    sizes = network.tensor("sizes", [2], "int32", [5, 5])
    b = network.tensor("b", [1, 5, 5, 4])
    network.op("RESIZE_BILINEAR", [a, sizes], b, options("ResizeBilinear"), 2)
    path = tmp_path / "net.tflite"
    path.write_bytes(network.bytes(b))
    return path


def test_the_json_is_as_it_is_fixed(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["check", str(model), "--target", "coral-edgetpu", "--json"])

    facts = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (facts["target"], facts["total"], facts["accelerated"]) == ("coral-edgetpu", 2, 1)
    assert facts["ops"][0] == {
        "index": 0,
        "op": "RELU",
        "output": "a",
        "on": "npu",
        "reason": None,
        "fix": None,
    }
    assert (facts["ops"][1]["on"], facts["ops"][1]["output"]) == ("cpu", "b")
    assert "--rewrite" in facts["ops"][1]["fix"]
    assert facts["basis"] == "predicted"


def test_people_are_told_what_runs_where_and_what_to_try(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", str(model), "--target", "coral-edgetpu"])

    said = capsys.readouterr().out
    assert "coral-edgetpu: 1 of 2 operators run on the accelerator (predicted)" in said
    assert "1 RESIZE_BILINEAR: Operation is otherwise supported" in said
    assert "try: repeat the one pixel" in said


def test_rewriting_writes_a_better_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = model.with_name("better.tflite")

    code = main(["check", str(model), "--target", "coral-edgetpu", "--rewrite", str(out), "--json"])

    facts = json.loads(capsys.readouterr().out)
    assert (code, facts["accelerated"], facts["total"]) == (0, 2, 2)
    assert len(facts["rewrites"]) == 1
    assert facts["proven_inputs"] == 8
    assert out.is_file()


def test_a_target_without_an_accelerator_runs_all_on_the_cpu(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", str(model), "--target", "rpi4", "--json"])

    facts = json.loads(capsys.readouterr().out)
    assert [(op["on"], op["reason"]) for op in facts["ops"]] == [("cpu", None)] * 2


def test_an_onnx_model_is_checked_against_its_own_targets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["check", DIGITS, "--target", "jetson-orin-nano", "--json"])

    facts = json.loads(capsys.readouterr().out)
    assert (code, facts["total"], facts["accelerated"]) == (0, 27, 27)
    assert {op["on"] for op in facts["ops"]} == {"gpu"}


def test_a_model_that_is_not_of_the_targets_format_is_compiled_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = main(["check", DIGITS, "--target", "coral-edgetpu", "--json"])

    facts = json.loads(capsys.readouterr().out)
    assert code == 0
    assert facts["accelerated"] == facts["total"] == len(facts["ops"])
    assert {"CONV_2D", "DEPTHWISE_CONV_2D"} <= {op["op"] for op in facts["ops"]}
    assert facts["notes"][0].endswith(f"edgec compile makes of {DIGITS} at int8")


def test_a_target_that_is_a_cpu_is_asked_for_kernels(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network()
    out = network.op("RFFT2D", [network.input([1, 4])], network.tensor("out", [1, 4]))
    unknown = tmp_path / "unknown.tflite"
    unknown.write_bytes(network.bytes(out))

    main(["check", str(model), "--target", "cortex-m7"])
    main(["check", str(unknown), "--target", "cortex-m7"])

    said = capsys.readouterr().out
    assert "cortex-m7: all 2 operators run on the CPU: it has no accelerator" in said
    assert "cortex-m7: 1 of 1 operators have no kernel there" in said


def test_an_onnx_operator_that_a_target_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Det", ["y"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
    )
    path = tmp_path / "det.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))

    main(["check", str(path), "--target", "rk3588", "--json"])

    facts = json.loads(capsys.readouterr().out)
    assert [op["on"] for op in facts["ops"]] == ["npu", "cpu"]
    assert "Det making 'z' float32[1]" in facts["ops"][1]["reason"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((f"{NET}:nothing", "--target", "coral-edgetpu"), "has no function 'nothing'"),
        ((DIGITS, "--target", "no-such-target"), "unknown target"),
        (("/no/such.tflite", "--target", "rpi4"), "No such file"),
        ((DIGITS, "--target", "jetson-nano", "--rewrite", "x.onnx"), "TFLite models only"),
    ],
)
def test_what_cannot_be_checked_exits_2_with_a_way_out(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["check", *arguments])

    assert code == 2
    assert message in capsys.readouterr().err


def test_a_cpu_without_a_kernel_for_a_custom_operator_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network()
    out = network.op("FlexErf", [network.input([1, 4])], network.tensor("out", [1, 4]))
    path = tmp_path / "flex.tflite"
    path.write_bytes(network.bytes(out))

    main(["check", str(path), "--target", "rpi4", "--json"])

    (op,) = json.loads(capsys.readouterr().out)["ops"]
    assert (op["op"], op["on"]) == ("FlexErf", "cpu")
    assert "needs TensorFlow itself" in op["reason"]
    assert "without Select TF operators" in op["fix"]


def test_a_tflite_file_for_a_target_of_onnx_is_sent_to_its_source(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["check", str(model), "--target", "jetson-orin-nano"])

    said = capsys.readouterr().err
    assert code == 2
    assert "takes onnx, not tflite: give the ONNX or PyTorch model that it was made from" in said
