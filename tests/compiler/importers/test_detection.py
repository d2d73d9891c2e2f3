"""Operators of detectors: a file with them becomes an ONNX model that answers as it does."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgec_compiler.convert.to_onnx import serialise, to_onnx
from edgec_compiler.convert.to_tflite import to_tflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.importers import import_model
from edgec_compiler.passes import capture, run_passes
from edgec_compiler.source import SourceModel

pytestmark = pytest.mark.xdist_group("compiles")
DRAW = np.random.default_rng(3)


def _imported(
    folder: Path,
    nodes: list[Any],
    inputs: dict[str, tuple[int, ...]],
    opset: int = 17,
    **constants: Any,
) -> SourceModel:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    graph.output[0].ClearField("type")
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return import_model(str(path), {})


def _form(source: SourceModel) -> tuple[torch.fx.GraphModule, onnx.ModelProto]:
    assert source.module is not None
    graph = capture(source.module, source.example())
    run_passes(graph, source.example())
    return graph, to_onnx(graph, source)


def _boxes(count: int) -> np.ndarray:
    corners = DRAW.random((count, 2)) * 20
    return np.concatenate([corners, corners + 4 + DRAW.random((count, 2)) * 8], 1).astype("float32")


def test_selected_boxes_have_rows_of_minus_one_behind_them(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonMaxSuppression", ["b", "s", "most", "iou", "least"], ["i"]),
        helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT),
    ]
    limits = {"most": np.array([4]), "iou": np.float32([0.3]), "least": np.float32([0.6])}
    given = {"b": _boxes(10)[None], "s": DRAW.random((1, 2, 10)).astype("float32")}

    source = _imported(tmp_path, nodes, {"b": (1, 10, 4), "s": (1, 2, 10)}, **limits)
    graph, form = _form(source)

    (wanted,) = onnxruntime.InferenceSession(source.payload).run(None, given)
    (found,) = onnxruntime.InferenceSession(serialise(form)).run(None, given)
    assert wanted.shape == source.outputs[0].shape == (1, 8, 3)
    assert 0 < (wanted[0, :, 0] >= 0).sum() < 8
    assert (wanted[wanted[..., 0] < 0] == -1).all()
    np.testing.assert_array_equal(found, wanted)
    assert source.module is not None
    made = source.module(*(torch.from_numpy(value) for value in given.values()))
    np.testing.assert_array_equal(made.numpy(), wanted)
    assert "NonMaxSuppression 'i' always has as many rows" in source.notes[0]
    assert source.notes[1] == "output 'y' has no batch axis: it gets one, and is [1, 8, 3]"
    with pytest.raises(ConversionError, match="operator NonMaxSuppression has no form in TFLite"):
        to_tflite(graph, source)


@pytest.mark.parametrize("facts", [{"sampling_ratio": 2}, {}, {"mode": "max"}])
def test_values_under_boxes_are_pooled_by_one_operator(
    facts: dict[str, Any], tmp_path: Path
) -> None:
    node = helper.make_node(
        "RoiAlign", ["x", "b", "n"], ["y"], output_height=3, output_width=2, **facts
    )
    given = {"x": DRAW.random((2, 3, 24, 32)).astype("float32"), "b": _boxes(5)}

    source = _imported(
        tmp_path, [node], {"x": (2, 3, 24, 32), "b": (5, 4)}, n=np.array([0, 1, 1, 0, 1])
    )
    _, form = _form(source)

    assert "RoiAlign" in [one.op_type for one in form.graph.node]
    assert len(source.notes) == 3  # both images and all boxes are one row
    given = {name: value[None] for name, value in given.items()}
    (wanted,) = onnxruntime.InferenceSession(source.payload).run(None, given)
    (found,) = onnxruntime.InferenceSession(serialise(form)).run(None, given)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert source.module is not None
    made = source.module(*(torch.from_numpy(value) for value in given.values()))
    np.testing.assert_allclose(made.detach().numpy(), wanted, atol=1e-4)


def test_a_bent_convolution_is_written_in_parts(tmp_path: Path) -> None:
    shapes = {"x": (1, 4, 9, 8), "o": (1, 36, 9, 8), "m": (1, 18, 9, 8)}
    node = helper.make_node(
        "DeformConv", ["x", "w", "o", "c", "m"], ["y"], pads=[1] * 4, offset_group=2, group=2
    )
    weights = DRAW.normal(size=(6, 2, 3, 3)).astype("float32")
    given = {name: DRAW.normal(size=shape).astype("float32") for name, shape in shapes.items()}

    source = _imported(tmp_path, [node], shapes, opset=19, w=weights, c=np.ones(6, "float32"))
    _, form = _form(source)

    (found,) = onnxruntime.InferenceSession(serialise(form)).run(None, given)
    assert source.module is not None
    made = source.module(*(torch.from_numpy(value) for value in given.values()))
    np.testing.assert_allclose(found, made.detach().numpy(), atol=1e-4)
    assert {one.op_type for one in form.graph.node} & {"GatherElements", "MatMul"}
