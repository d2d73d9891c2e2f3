"""ONNX models that hold nothing to quantise, or that no device could serve in rows."""

import itertools
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgec_compiler.compiling import CompileOptions, compile_model
from edgec_compiler.convert.parity import check_onnx
from edgec_compiler.convert.to_onnx import lowered
from edgec_compiler.errors import ConversionError
from edgec_compiler.quantise.activations import onnx_activations
from edgec_compiler.quantise.onnx_precision import to_qdq
from edgec_compiler.source import SourceModel
from edgec_hardware_profiles import load
from edgec_runtime.session import ModelTensor, load_session


def _sum(inputs: dict[str, tuple[int, ...]], kind: int) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    result = helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph([helper.make_node("Sum", list(inputs), ["y"])], "g", values, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_a_model_without_floats_has_no_activations_to_observe() -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.INT64, (1, 4)) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    (results,) = onnx_activations(model, [{"x": np.ones((1, 4), np.int64)}])

    assert list(results) == []


def test_an_input_of_another_batch_gets_a_batch_axis_before_its_own(tmp_path: Path) -> None:
    onnx.save(_sum({"a": (4, 3), "b": (1, 3)}, TensorProto.FLOAT), tmp_path / "m.onnx")
    wanted = CompileOptions(
        str(tmp_path / "m.onnx"), ("generic-x86_64",), str(tmp_path / "out"), name="m"
    )

    (result,) = compile_model(wanted, lambda step, target: None)

    assert result.facts is not None
    assert result.facts["agreement"] == 1
    assert "input 'a' has no batch axis: it gets one, and is [1, 4, 3]" in result.facts["notes"]


@pytest.mark.parametrize("layers", [1, 3], ids=["one layer", "layers that share it"])
def test_a_bias_that_is_stored_as_a_row_is_quantised_per_channel(layers: int) -> None:
    draw = np.random.default_rng(0)
    weights = draw.standard_normal((4, 4)).astype(np.float32)
    bias = draw.standard_normal((1, 4)).astype(np.float32)
    names = ["x", *(f"y{i}" for i in range(layers))]
    nodes = [
        helper.make_node("Gemm", [x, "w", "b"], [y], name=y) for x, y in itertools.pairwise(names)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4))
        for name in (names[0], names[-1])
    ]
    held = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    x = draw.uniform(-1, 1, (1, 4)).astype(np.float32)
    right = [x]
    for _ in range(layers):
        right.append(right[-1] @ weights + bias)
    ranges = {name: float(np.abs(y).max()) for name, y in zip(names, right, strict=True)}

    made = to_qdq(
        model,
        {name: (-most, most) for name, most in ranges.items()},
        load("generic-arm64").quantization,
    )

    (found,) = load_session(made.SerializeToString(), "onnxruntime").run({"x": x}).values()
    assert np.abs(found - right[-1]).max() < 0.02 * layers * ranges[names[-1]]


class _Scaled(nn.Module):
    def __init__(self, scale: float, gap: float) -> None:
        super().__init__()
        self.scale, self.gap = scale, gap

    def forward(self, x: torch.Tensor, _y: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.gap


def _scaled(scale: float, *names: str) -> tuple[bytes, SourceModel]:
    """Return x * scale as ONNX with inputs `names`, and the source that it is checked against."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 4)) for name in names]
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, (1, 4))
    factor = numpy_helper.from_array(np.array(scale, np.float32), "k")
    nodes = [helper.make_node("Mul", ["x", "k"], ["out"])]
    graph = helper.make_graph(nodes, "g", ends, [result], [factor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    tensors = tuple(ModelTensor(name, "float32", (1, 4)) for name in "xy")
    outputs = (ModelTensor("out", "float32", (1, 4)),)
    module = _Scaled(scale, 0)
    source = SourceModel("onnx", "m", "", 0, tensors, outputs, (), module, None)
    return model.SerializeToString(), source


def test_scores_that_are_all_tiny_may_be_off_by_rounding() -> None:
    payload, source = _scaled(1e-5, "x", "y")

    check_onnx(payload, _Scaled(1e-5, 5e-7), source)
    with pytest.raises(ConversionError, match="computes something else"):
        check_onnx(payload, _Scaled(1e-5, 5e-6), source)


def test_an_input_that_a_converter_leaves_out_is_told() -> None:
    payload, source = _scaled(1.0, "x")

    with pytest.raises(ConversionError, match=r"2 inputs and computes with 1 of them \(x\)"):
        check_onnx(payload, _Scaled(1.0, 0.0), source)


@pytest.mark.parametrize("opset", [15, 17])
def test_split_pad_and_identity_have_older_forms(opset: int) -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1, num_outputs=2),
        helper.make_node("Mul", ["a", "b"], ["m"]),
        helper.make_node("Pad", ["m", "pads"], ["p"]),
        helper.make_node("Identity", ["p"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, size))
        for name, size in (("x", 6), ("y", 5))
    ]
    pads = numpy_helper.from_array(np.array([0, 1, 0, 1], np.int64), "pads")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [pads])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    older = lowered(model, opset)

    assert [(one.domain, one.version) for one in older.opset_import] == [("", opset)]
    x = np.arange(6, dtype=np.float32).reshape(1, 6)
    (made,) = load_session(older.SerializeToString(), "onnxruntime").run({"x": x}).values()
    assert made.tolist() == [[0, 0, 4, 10, 0]]


@pytest.mark.parametrize(
    ("inner", "end", "told"),
    [
        (
            TensorProto.UINT64,
            TensorProto.FLOAT,
            "with uint64, which the model has: cast it to int64",
        ),
        (TensorProto.FLOAT, TensorProto.DOUBLE, "output 'y' is float64, .*: cast it to float32"),
    ],
)
def test_types_that_tflite_lacks_are_refused_with_the_way_out(
    inner: int, end: int, told: str, tmp_path: Path
) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=inner),
        helper.make_node("Cast", ["i"], ["y"], to=end),
    ]
    ends = [
        helper.make_tensor_value_info(name, kind, (1, 4))
        for name, kind in (("x", TensorProto.FLOAT), ("y", end))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    wanted = CompileOptions(str(tmp_path / "m.onnx"), ("rpi4",), str(tmp_path / "out"), name="m")

    (result,) = compile_model(wanted, lambda step, target: None)

    assert result.error is not None
    assert re.search(told, result.error)
    assert not (tmp_path / "out").exists()
