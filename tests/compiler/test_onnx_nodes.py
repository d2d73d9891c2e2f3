"""How single ONNX graphs are built: folding, branches, refusals. ONNX's own tests: importers/."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from edgec_compiler.errors import CompilerError, UnsupportedOperatorError
from edgec_compiler.importers.onnx_module import build_module


def _model(nodes: list[Any], inputs: Mapping[str, tuple[int, ...]], **constants: Any) -> Any:
    float_type = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, float_type, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", float_type, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_shape_arithmetic_is_folded_away() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    model = _model(nodes, {"x": (1, 2, 3)}, zero=[np.int64(0)], rest=[np.int64(-1)])

    module, outputs = build_module(model, {"x": torch.arange(6.0).reshape(1, 2, 3)})

    assert [node.op for node, _ in module.steps] == ["Reshape"]
    assert outputs[0].shape == (1, 6)


def test_a_constant_condition_picks_its_branch() -> None:
    def branch(op: str) -> Any:
        value = helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["x"], ["b"])], op, [], [value])

    condition = helper.make_node(
        "If", ["yes"], ["y"], then_branch=branch("Neg"), else_branch=branch("Abs")
    )

    module, _ = build_module(_model([condition], {"x": (2,)}, yes=True), {"x": torch.ones(2)})

    assert module(torch.tensor([1.0, -2.0])).tolist() == [-1.0, 2.0]


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (helper.make_node("NonZero", ["x"], ["y"]), "operator NonZero (output 'y')"),
        (helper.make_node("Fancy", ["x"], ["y"], domain="my.own"), "of domain my.own"),
        (helper.make_node("Tile", ["x", "x"], ["y"]), "a constant repeats can be compiled"),
        (helper.make_node("MatMul", ["x", "x"], ["y"]), "fails on inputs of shapes"),
    ],
)
def test_an_operator_that_cannot_be_expressed_is_named(node: Any, said: str) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        build_module(_model([node], {"x": (1, 2, 3)}), {"x": torch.ones(1, 2, 3)})

    assert said in str(caught.value)


def test_an_operator_without_its_input_is_refused() -> None:
    model = _model([helper.make_node("Neg", ["ghost"], ["y"])], {"x": (1,)})

    with pytest.raises(CompilerError, match="nothing makes its input 'ghost'"):
        build_module(model, {"x": torch.ones(1)})
