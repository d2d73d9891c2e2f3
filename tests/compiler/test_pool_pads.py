"""Minus infinity and copies of the edge before a maximum pool, in ONNX."""

import numpy as np
import onnx
import onnx.parser
import pytest

from edgec_compiler.convert import pool_pads
from edgec_runtime.session import load_session

MODEL = """<ir_version: 9, opset_import: ["" : 18]>
g (float[1, 2, 7, 6] x) => (float[1, 2, H, W] y{other})
    <int64[8] around = {{{pads}}}, float endless = {{{value}}}>
    {{ padded = Pad(x, around, endless)
       y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 0, 0, 1]>(padded){more} }}"""


def _model(pads: str, value: str = "-inf", other: str = "", more: str = "") -> onnx.ModelProto:
    text = MODEL.format(pads=pads, value=value, other=other, more=more)
    return onnx.parser.parse_model(text)


def _ops(model: onnx.ModelProto) -> list[str]:
    onnx.checker.check_model(model, full_check=True)
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("mode", ["constant", "edge"])
def test_what_no_maximum_is_becomes_the_pools_own_padding(mode: str) -> None:
    model = _model("0, 0, 1, 1, 0, 0, 0, 1")
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("mode", mode))
    x = np.random.default_rng(0).normal(size=(1, 2, 7, 6)).astype(np.float32) - 9
    (wanted,) = load_session(model.SerializeToString(), "onnxruntime").run({"x": x}).values()

    pool_pads.fold(model)

    assert _ops(model) == ["MaxPool"]
    assert not model.graph.initializer
    (made,) = load_session(model.SerializeToString(), "onnxruntime").run({"x": x}).values()
    np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize(
    "model",
    [
        _model("0, 0, 0, 0, 0, 0, 1, 1", value="0"),
        _model("0, 1, 0, 0, 0, 0, 0, 1"),
        _model("0, 0, 2, 0, 0, 0, 0, 1"),
        _model("0, 0, 0, 0, 0, 0, 1, 1", other=", float[1, 2, 8, 7] z", more="\nz = Neg(padded)"),
    ],
    ids=["zeros", "channels, too", "as much as the window", "another reader"],
)
def test_what_else_is_padded_stays(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)

    pool_pads.fold(model)

    assert model.SerializeToString(deterministic=True) == before
