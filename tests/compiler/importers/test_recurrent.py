"""ONNX's GRU, LSTM and RNN: one node each in the ONNX form, steps in TFLite, narrow weights."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from edgec_compiler.compress.counting import macs, macs_by_weight
from edgec_compiler.convert.to_onnx import lowered, serialise, to_onnx
from edgec_compiler.importers.onnx_module import build_module
from edgec_compiler.passes import capture, run_passes
from edgec_compiler.quantise import onnx_precision
from edgec_compiler.source import SourceModel
from edgec_hardware_profiles import load
from edgec_runtime.session import ModelTensor

pytestmark = pytest.mark.xdist_group("compiles")
STEPS, IN, HIDDEN = 6, 5, 16
GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
X = np.random.default_rng(1).normal(size=(STEPS, 1, IN)).astype(np.float32)
Layer = tuple[str, dict[str, Any]]
# Every way in which torch's own layers differ from ONNX's.
LAYERS: dict[str, Layer] = {
    "gru early reset": ("GRU", {"direction": "bidirectional"}),
    "gru late reset": ("GRU", {"linear_before_reset": 1, "direction": "reverse"}),
    "lstm peepholes": ("LSTM", {"direction": "bidirectional"}),
    "rnn relu": ("RNN", {"activations": ["Relu"]}),
}


def _model(op: str, attributes: dict[str, Any]) -> onnx.ModelProto:
    """Return an ONNX model of one recurrent layer; an LSTM has peepholes."""
    draw = np.random.default_rng(0)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    wide = GATES[op] * HIDDEN
    shapes = {"w": (directions, wide, IN), "r": (directions, wide, HIDDEN)}
    shapes |= {"b": (directions, 2 * wide), "p": (directions, 3 * HIDDEN)}
    inputs = ["x", "w", "r", "b"] + (["", "", "", "p"] if op == "LSTM" else [])
    graph = helper.make_graph(
        [helper.make_node(op, inputs, ["y", "y_h"], hidden_size=HIDDEN, **attributes)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(draw.normal(0, 0.4, shape).astype(np.float32), name)
            for name, shape in shapes.items()
            if name in inputs
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _converted(model: onnx.ModelProto) -> onnx.ModelProto:
    module, outputs = build_module(model, {"x": torch.from_numpy(X)})
    ends = (ModelTensor("x", "float32", X.shape),), outputs
    source = SourceModel("onnx", "g", "", 0, *ends, (), module.eval(), None)
    graph = capture(module, source.example())
    run_passes(graph, source.example())
    return to_onnx(graph, source)


def _answer(model: onnx.ModelProto) -> np.ndarray:
    return onnxruntime.InferenceSession(serialise(model)).run(None, {"x": X})[0]


@pytest.fixture(scope="module", params=LAYERS.values(), ids=LAYERS)
def layer(request: pytest.FixtureRequest) -> tuple[str, onnx.ModelProto, onnx.ModelProto]:
    """An operator, a source model of one layer of it, and its float ONNX form."""
    op, attributes = request.param
    model = _model(op, attributes)
    return op, model, _converted(model)


Made = tuple[str, onnx.ModelProto, onnx.ModelProto]


def test_a_recurrent_layer_stays_one_node_that_computes_the_same(layer: Made) -> None:
    op, source, form = layer

    assert [node.op_type for node in form.graph.node] == [op]
    assert len(serialise(form)) < 1.1 * len(serialise(source))
    np.testing.assert_allclose(_answer(form), _answer(source), atol=1e-5)
    np.testing.assert_allclose(_answer(lowered(form, 15)), _answer(source), atol=1e-5)


@pytest.mark.parametrize("precision", ["int8", "dynamic", "int8-weights"])
def test_its_weights_become_narrow_at_every_integer_precision(layer: Made, precision: str) -> None:
    op, source, form = layer
    style = load("generic-arm64").quantization

    made = onnx_precision.quantise(form, precision, {}, style, narrow_recurrent=True)

    kept = "DynamicQuantizeLSTM" if (op, precision) == ("LSTM", "dynamic") else op
    assert kept in [node.op_type for node in made.graph.node]
    assert len(serialise(made)) < 0.7 * len(serialise(form))
    np.testing.assert_allclose(_answer(made), _answer(source), atol=0.1)


def test_its_weights_stay_float_for_a_target_that_does_not_dequantise_them(layer: Made) -> None:
    _, source, form = layer

    made = onnx_precision.quantise(form, "int8", {}, load("rk3588").quantization)

    np.testing.assert_allclose(_answer(made), _answer(source), atol=1e-5)


def test_its_multiplications_are_counted_by_step_and_weight() -> None:
    module, _ = build_module(_model("GRU", {}), {"x": torch.from_numpy(X)})
    graph = capture(module, (torch.from_numpy(X),))
    run_passes(graph, (torch.from_numpy(X),))

    found = macs_by_weight(graph)

    wide = GATES["GRU"] * HIDDEN
    assert [found["c_w"], found["c_r"]] == [STEPS * wide * IN, STEPS * wide * HIDDEN]
    assert macs(graph) == STEPS * wide * (IN + HIDDEN)
