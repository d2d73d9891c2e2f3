"""ONNX files as input: external data, control flow, opsets."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgec_compiler.convert.parity import check_onnx
from edgec_compiler.convert.to_onnx import serialise, to_onnx
from edgec_compiler.errors import CompilerError, ModelFileError, UnsupportedOperatorError
from edgec_compiler.importers import import_model
from edgec_compiler.importers.onnx_module import build_module
from edgec_compiler.passes import capture


def _value(name: str, shape: tuple[int, ...] | None = None, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _external(folder: Path, **facts: str) -> str:
    weights = numpy_helper.from_array(np.arange(8, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [_value("x", (1, 8))], [_value("y")]
    )
    graph.initializer.append(weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": "0", "length": "32", **facts}.items():
        tensor.external_data.add(key=key, value=value)
    (folder / "w.bin").write_bytes(np.arange(8, dtype=np.float32).tobytes())
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    return str(folder / "m.onnx")


def test_external_data_is_read_and_counted(tmp_path: Path) -> None:
    file = _external(tmp_path)

    source = import_model(file, {})

    assert source.module is not None
    assert source.module(torch.zeros(1, 8))[0].tolist() == list(range(8))
    assert source.size_bytes == Path(file).stat().st_size + 32
    before = source.sha256
    (tmp_path / "w.bin").write_bytes(bytes(32))
    assert import_model(file, {}).sha256 != before


def test_a_batch_normalisation_that_no_layer_takes_in_becomes_onnx_again(tmp_path: Path) -> None:
    facts = [
        numpy_helper.from_array(np.linspace(0.5, 2, 3, dtype=np.float32), name)
        for name in ("scale", "bias", "mean", "var")
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("BatchNormalization", ["r", "scale", "bias", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [_value("x", (1, 3, 4, 4))], [_value("y")], facts)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    source = import_model(str(tmp_path / "m.onnx"), {})
    assert source.module is not None

    made = to_onnx(capture(source.module, source.example()), source)

    check_onnx(serialise(made), source.module, source)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"location": "../secret"}, "lies outside the model's folder"),
        ({"location": "/etc/passwd"}, "lies outside the model's folder"),
        ({"location": "link"}, "lies outside the model's folder"),
        ({"location": ""}, "without a location"),
        ({"location": "gone.bin"}, "must lie beside the model"),
        ({"location": "."}, "must lie beside the model"),
        ({"length": "64"}, "has 32 bytes, needed are 64"),
        ({"offset": "-4"}, "at offset '-4'"),
        ({"offset": "99999999999999999999"}, "at offset"),
    ],
)
def test_external_data_that_lies_or_leads_away_is_refused(
    facts: dict[str, str], said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(64))
    (folder / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(ModelFileError, match=said):
        import_model(_external(folder, **facts), {})


def _model(nodes: list[Any], opset: int = 17, **constants: Any) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [_value("x", (2, 3))], [_value("y")], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def _run(model: onnx.ModelProto, x: torch.Tensor) -> torch.Tensor:
    module, _ = build_module(model, {"x": x})
    result: torch.Tensor = module(x)
    return result


def test_a_loop_of_known_length_is_unrolled() -> None:
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", "two"], ["next"]),
            helper.make_node("Identity", ["going"], ["on"]),
            helper.make_node("Identity", ["next"], ["row"]),
        ],
        "body",
        [
            _value("turn", (), TensorProto.INT64),
            _value("going", (), TensorProto.BOOL),
            _value("state", (2, 3)),
        ],
        [_value("on", (), TensorProto.BOOL), _value("next", (2, 3)), _value("row", (2, 3))],
        [numpy_helper.from_array(np.array(2.0, np.float32), "two")],
    )
    loop = helper.make_node("Loop", ["turns", "yes", "x"], ["y", "rows"], body=body)

    for turns in (np.int64(3), [3]):  # as a scalar, and as exporters write it
        made = _run(_model([loop], turns=turns, yes=True), torch.ones(2, 3))
        assert made.tolist() == [[8.0] * 3] * 2

    with pytest.raises(CompilerError, match=r"number of turns is not one value but \[2\]"):
        _run(_model([loop], turns=[3, 3], yes=True), torch.ones(2, 3))


def test_a_loop_that_would_never_end_is_refused() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["on"])],
        "body",
        [_value("turn", (), TensorProto.INT64), _value("going", (), TensorProto.BOOL)],
        [_value("on", (), TensorProto.BOOL)],
    )
    nodes = [
        helper.make_node("Loop", ["", "yes"], [], body=body),
        helper.make_node("Neg", ["x"], ["y"]),
    ]

    with pytest.raises(CompilerError):
        _run(_model(nodes, yes=True), torch.ones(2, 3))


def test_a_condition_on_the_data_picks_between_both_branches() -> None:
    def branch(op: str) -> Any:
        return helper.make_graph([helper.make_node(op, ["x"], ["b"])], op, [], [_value("b")])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], then_branch=branch("Neg"), else_branch=branch("Abs")
        ),
    ]
    module, _ = build_module(_model(nodes, zero=np.float32(0)), {"x": torch.ones(2, 3)})

    assert module(torch.ones(2, 3)).sum() == -6
    assert module(-torch.ones(2, 3)).sum() == 6


def test_weights_of_four_bits_in_blocks_are_read_as_floats() -> None:
    values = np.array([[1, -2, 3, -4, 5, -6]])
    tensor = helper.make_tensor("q", TensorProto.INT4, (1, 6), values.ravel())
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"], axis=1, block_size=3),
        helper.make_node("Reshape", ["w", "shape"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    model = _model(
        nodes, 21, s=np.array([[0.5, 2.0]], np.float32), shape=np.array([2, 3], np.int64)
    )
    model.graph.initializer.append(tensor)

    made = _run(model, torch.zeros(2, 3))

    assert made.tolist() == [[0.5, -1.0, 1.5], [-8.0, 10.0, -12.0]]


def test_weights_of_eight_bit_floats_are_read_as_floats() -> None:
    tensor = helper.make_tensor("q", TensorProto.FLOAT8E4M3FN, (2, 3), [1, -2, 3, 448, 0.5, -6])
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    model = _model(nodes, 21, s=np.float32(0.5))
    model.graph.initializer.append(tensor)

    module, _ = build_module(model, {"x": torch.zeros(2, 3)})

    assert module(torch.zeros(2, 3)).tolist() == [[0.5, -1.0, 1.5], [224.0, 0.25, -3.0]]
    assert [node.op for node, _ in module.steps] == ["Add"]


@pytest.mark.parametrize("opset", [6, 7])
def test_old_opsets_are_lifted(opset: int, tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Add", ["n", "ones"], ["y"])]
    model = _model(nodes, opset, ones=np.ones((2, 3), np.float32))
    onnx.save(model, tmp_path / "m.onnx")

    source = import_model(str(tmp_path / "m.onnx"), {})

    assert source.module is not None
    assert source.module(torch.full((2, 3), 3.0)).tolist() == [[-2.0] * 3] * 2
    lifted = [note for note in source.notes if f"opset {opset} was lifted to 7" in note]
    assert len(lifted) == (opset < 7)


def test_newer_opsets_and_what_cannot_be_lifted_are_refused(tmp_path: Path) -> None:
    newer = _model([helper.make_node("Neg", ["x"], ["y"])], 99)
    strange = _model([helper.make_node("NoSuchOperator", ["x"], ["y"])], 5)

    for model, said in ((newer, "opset 99; supported are 7 to"), (strange, "cannot lift it")):
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(ModelFileError, match=said):
            import_model(str(tmp_path / "m.onnx"), {})


def test_nodes_that_lie_out_of_order_are_put_in_order(tmp_path: Path) -> None:
    inside = [helper.make_node("Neg", ["late"], ["b"]), helper.make_node("Abs", ["m"], ["late"])]
    branch = helper.make_graph(inside, "branch", [], [_value("b")])
    nodes = [
        helper.make_node("Add", ["c", "d"], ["y"]),
        helper.make_node("If", ["yes"], ["d"], then_branch=branch, else_branch=branch),
        helper.make_node("Mul", ["x", "x"], ["c"]),
        helper.make_node("Sub", ["c", "x"], ["m"]),
    ]
    onnx.save(_model(nodes, yes=True), tmp_path / "m.onnx")
    onnx.save(_model(nodes[:1] + nodes[3:], yes=True, d=np.float32(0)), tmp_path / "gap.onnx")

    source = import_model(str(tmp_path / "m.onnx"), {})

    assert source.module is not None
    assert source.module(torch.full((2, 3), 3.0)).tolist() == [[9.0 - 6.0] * 3] * 2
    assert [operator.op for operator in source.operators] == ["Mul", "Sub", "If", "Add"]
    with pytest.raises(ModelFileError, match="nothing makes its input 'c' before it"):
        import_model(str(tmp_path / "gap.onnx"), {})


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_floats_of_sixteen_bits_are_read_as_float32(kind: int, tmp_path: Path) -> None:
    def held(name: str, values: list[float]) -> onnx.TensorProto:
        return helper.make_tensor(name, kind, [len(values)], values)

    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value=held("c", [0.5, 1, 2]))],
        "branch",
        [],
        [_value("b", None, kind)],
    )
    nodes = [
        helper.make_node("If", ["yes"], ["half"], then_branch=branch, else_branch=branch),
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["wide"], ["narrow"], to=kind),
        helper.make_node("Mul", ["narrow", "half"], ["m"]),
        helper.make_node("Add", ["m", "w"], ["y"]),
    ]
    yes = numpy_helper.from_array(np.array(True), "yes")
    graph = helper.make_graph(
        nodes,
        "g",
        [_value("x", (1, 3), kind)],
        [_value("y", None, kind)],
        [held("w", [1, 2, 3]), yes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")

    source = import_model(str(tmp_path / "m.onnx"), {})

    assert [(end.name, end.dtype) for end in (*source.inputs, *source.outputs)] == [
        ("x", "float32"),
        ("y", "float32"),
    ]
    assert source.module is not None
    assert source.module(torch.full((1, 3), 2.0)).tolist() == [[2.0, 4.0, 7.0]]
    assert any("16-bit floats are read as float32" in note for note in source.notes)


def test_a_model_without_inputs_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Neg", ["c"], ["y"])],
        "g",
        [],
        [_value("y")],
        [numpy_helper.from_array(np.ones((2, 3), np.float32), "c")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "m.onnx")

    with pytest.raises(ModelFileError, match="takes no input"):
        import_model(str(tmp_path / "m.onnx"), {})


def test_a_graph_that_asks_for_too_much_memory_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["huge"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    model = _model(nodes, huge=np.array([1 << 40, 1 << 10], np.int64))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(ModelFileError, match="more memory than there is"):
        import_model(str(tmp_path / "m.onnx"), {})


def test_a_view_that_stands_for_more_than_any_memory_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Expand", ["x", "huge"], ["many"]),
        helper.make_node("ReduceMean", ["many"], ["y"]),
    ]
    model = _model(nodes, huge=np.array([1 << 20, 1 << 20, 1, 1], np.int64))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(UnsupportedOperatorError, match=r"Expand.*'many'.*bytes"):
        import_model(str(tmp_path / "m.onnx"), {})


def test_state_and_rate_get_a_batch_axis_and_axes_of_one_name_one_size(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["level"], axes=[1]),
        helper.make_node("Cast", ["rate"], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["level", "scale"], ["scaled"]),
        helper.make_node("Add", ["state", "scaled"], ["next"]),
        helper.make_node("ReduceSum", ["next"], ["y"], keepdims=1),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "samples"]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "batch", 4]),
        helper.make_tensor_value_info("window", TensorProto.FLOAT, ["batch", "samples"]),
        helper.make_tensor_value_info("rate", TensorProto.INT64, []),
    ]
    nodes.insert(0, helper.make_node("Mul", ["sound", "window"], ["x"]))
    inputs[0].name = "sound"
    outputs = [_value("y", (1, 1, 1)), _value("next", (2, 1, 4))]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())

    source = import_model(str(tmp_path / "m.onnx"), {"sound": (1, 8)})

    assert [one.shape for one in source.inputs] == [(1, 8), (1, 2, 1, 4), (1, 8), (1,)]
    assert [one.shape for one in source.outputs] == [(1, 1, 1), (1, 2, 1, 4)]
    example = source.example()
    feeds = {one.name: x.numpy() for one, x in zip(source.inputs, example, strict=True)}
    wanted = onnxruntime.InferenceSession(source.payload).run(None, feeds)
    assert source.module is not None
    for found, right in zip(source.module(*example), wanted, strict=True):
        np.testing.assert_allclose(found.numpy(), right, rtol=1e-5)
