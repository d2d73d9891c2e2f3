"""Quantised ONNX files: pairs and operators on integers are read as the reals that they mean."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic

from edgec_compiler.errors import UnsupportedOperatorError
from edgec_compiler.importers import import_model
from edgec_compiler.importers.onnx_module import build_module
from edgec_compiler.source import SourceModel
from edgec_runtime.session import load_session

Array = np.ndarray[Any, Any]
DRAW = np.random.default_rng(0)
IMAGE = (1, 3, 8, 8)
STEP = {"s": np.float32(0.05), "z": np.uint8(128), "s0": np.float32(0.04), "z0": np.uint8(0)}
WEIGHTS = {
    "w": DRAW.integers(-90, 90, (4, 3, 3, 3), dtype=np.int8),
    "ws": np.array([0.001, 0.002, 0.0015, 0.001], np.float32),
    "wz": np.zeros(4, np.int8),
    "b": DRAW.integers(-900, 900, 4, dtype=np.int32),
}


def _model(
    nodes: list[onnx.NodeProto], shape: tuple[int, ...], constants: dict[str, Array]
) -> onnx.ModelProto:
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], held)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8)


def _node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    names = [name if name != "-" else "" for name in inputs.split()]
    return helper.make_node(op, names, [output], **attributes)


def _ort(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return _node(op, inputs, output, domain="com.microsoft", **attributes)


def _imported(model: onnx.ModelProto, folder: Path) -> SourceModel:
    onnx.save(model, folder / "m.onnx")
    return import_model(str(folder / "m.onnx"), {})


def _off(source: SourceModel, x: Array) -> float:
    """Return how far the module is off from the file on its own runtime."""
    assert source.module is not None
    assert source.payload is not None
    (there,) = load_session(source.payload, "onnxruntime", optimise=False).run({"x": x}).values()
    return float(np.abs(source.module(torch.from_numpy(x)).numpy() - there).max())


def _kinds(source: SourceModel) -> list[str]:
    steps: Any = source.module
    return [node.op for node, _ in steps.steps if node.op != "Identity"]


def test_pairs_around_layers_go_and_a_swallowed_relu_comes_back(tmp_path: Path) -> None:
    nodes = [
        _node("QuantizeLinear", "x s z", "q"),
        _node("DequantizeLinear", "q s z", "d"),
        _node("DequantizeLinear", "w ws wz", "wd", axis=0),
        _node("Conv", "d wd", "c"),
        _node("QuantizeLinear", "c s0 z0", "cq"),  # its range begins at zero
        _node("MaxPool", "cq", "pool", kernel_shape=[2, 2], strides=[2, 2]),
        _node("DequantizeLinear", "pool s0 z0", "y"),
    ]
    x = DRAW.uniform(-1, 1, IMAGE).astype(np.float32)  # nothing leaves the ranges

    source = _imported(_model(nodes, IMAGE, STEP | WEIGHTS), tmp_path)

    assert _kinds(source) == ["Conv", "Relu", "MaxPool"]
    assert "activations are read as floats" in source.notes[0]
    # half a step of the input through 27 weights, and half a step of the output
    most = 0.025 * float(np.abs(WEIGHTS["w"] * 0.002).sum(axis=(1, 2, 3)).max()) + 0.02
    assert 0 < _off(source, x) <= most


def test_a_range_that_ends_at_six_is_a_relu6(tmp_path: Path) -> None:
    six = {"s6": np.float32(6 / 255), "z6": np.uint8(0)}
    nodes = [
        _node("Neg", "x", "n"),
        _node("QuantizeLinear", "n s6 z6", "q"),
        _node("DequantizeLinear", "q s6 z6", "y"),
    ]
    x = np.linspace(-20, 20, 192, dtype=np.float32).reshape(IMAGE)

    source = _imported(_model(nodes, IMAGE, six), tmp_path)

    assert _kinds(source) == ["Neg", "Clip"]
    assert _off(source, x) <= 3 / 255 + 1e-6


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0, 3), (-1, 1), (-2.5, 2.5), (-1, 6)], ids=lambda end: f"{end}"
)
def test_a_range_of_round_width_is_the_clip_that_it_was(
    low: float, high: float, tmp_path: Path
) -> None:
    scale = np.float32((high - low) / 255)
    steps = {"s": scale, "z": np.uint8(round(-low / float(scale)))}
    nodes = [
        _node("Neg", "x", "n"),
        _node("QuantizeLinear", "n s z", "q"),
        _node("DequantizeLinear", "q s z", "d"),
        _node("QuantizeLinear", "d s z", "again"),  # is clipped already
        _node("DequantizeLinear", "again s z", "y"),
    ]
    x = np.linspace(-20, 20, 192, dtype=np.float32).reshape(IMAGE)

    source = _imported(_model(nodes, IMAGE, steps), tmp_path)

    assert _kinds(source) == ["Neg", "Clip"]
    assert _off(source, x) <= 1.001 * float(scale)  # half a step, and half of the zero point's


def test_what_something_keeps_in_its_range_is_not_clipped_again(tmp_path: Path) -> None:
    steps = {"s": np.float32(2 / 255), "z": np.uint8(128)}
    nodes = [
        _node("Tanh", "x", "t"),
        _node("QuantizeLinear", "t s z", "q"),
        _node("DequantizeLinear", "q s z", "y"),
    ]

    source = _imported(_model(nodes, IMAGE, steps), tmp_path)

    assert _kinds(source) == ["Tanh"]


def test_operators_on_integers_become_layers_of_reals(tmp_path: Path) -> None:
    nodes = [
        _node("QuantizeLinear", "x s z", "q"),
        _node("QLinearConv", "q s z w ws wz s z b", "c", pads=[1, 1, 1, 1]),
        _ort("QLinearLeakyRelu", "c s z s z", "r", alpha=0.1),
        _ort("QLinearAdd", "r s z c s z s z", "a"),
        _ort("QLinearGlobalAveragePool", "a s z s z", "g", channels_last=0),
        _node("DequantizeLinear", "g s z", "y"),
    ]
    x = DRAW.uniform(-1, 1, IMAGE).astype(np.float32)

    source = _imported(_model(nodes, IMAGE, STEP | WEIGHTS), tmp_path)

    assert _kinds(source) == ["Conv", "LeakyRelu", "Add", "GlobalAveragePool"]
    assert _off(source, x) < 0.1  # two steps: four values are rounded, and their errors averaged


def test_what_is_no_pair_stays(tmp_path: Path) -> None:
    nodes = [
        _node("QuantizeLinear", "x s z", "q"),
        _node("DequantizeLinear", "q s0 z0", "y"),  # of another scale: it means something
    ]
    x = DRAW.uniform(-2, 2, IMAGE).astype(np.float32)

    source = _imported(_model(nodes, IMAGE, STEP), tmp_path)

    assert _kinds(source) == ["QuantizeLinear", "DequantizeLinear"]
    assert source.notes == ()
    assert _off(source, x) == 0


def _float_model(kind: str) -> onnx.ModelProto:
    """Return a float model of layers that ONNX Runtime's dynamic quantiser takes."""
    held = {
        "k": DRAW.standard_normal((4, 3, 3, 3)).astype(np.float32) / 5,
        "kb": DRAW.standard_normal(4).astype(np.float32),
        "m": DRAW.standard_normal((64, 12)).astype(np.float32) / 8,
        "mb": DRAW.standard_normal(12).astype(np.float32),
        "w": DRAW.standard_normal((2, 32, 12)).astype(np.float32) / 3,
        "r": DRAW.standard_normal((2, 32, 8)).astype(np.float32) / 3,
        "b": DRAW.standard_normal((2, 64)).astype(np.float32) / 3,
        "rows": np.array([1, 4, 64]),
        "turned": np.array([3, 1, 12]),
    }
    nodes = [
        _node("Conv", "x k kb", "c", pads=[1, 1, 1, 1]),
        _node("Relu", "c", "a"),
        _node("Reshape", "a rows", "flat"),
        _node("MatMul", "flat m", "p"),
        _node("Add", "p mb", "y"),
    ]
    shape = IMAGE
    if kind == "lstm":
        shape = (3, 1, 12)
        nodes = [_node("LSTM", "x w r b", "y", hidden_size=8, direction="bidirectional")]
    read = {name for node in nodes for name in node.input}
    return _model(nodes, shape, {name: value for name, value in held.items() if name in read})


@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("kind", ["layers", "lstm"])
def test_what_is_quantised_at_run_time_is_read_as_reals(
    kind: str, per_channel: bool, tmp_path: Path
) -> None:
    model = _float_model(kind)
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(
        tmp_path / "float.onnx",
        tmp_path / "m.onnx",
        op_types_to_quantize=["Conv", "LSTM", "MatMul"],
        per_channel=per_channel,
    )
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    x = DRAW.uniform(-1, 1, shape).astype(np.float32)

    source = import_model(str(tmp_path / "m.onnx"), {})

    assert not {"DynamicQuantizeLinear", "DynamicQuantizeLSTM"} & set(_kinds(source))
    assert ("LSTM" if kind == "lstm" else "MatMul") in _kinds(source)
    assert "activations are read as floats" in source.notes[0]
    # The file rounds inputs to 255 steps and weights to as many: neither is more than a hundredth.
    assert source.module is not None
    made = source.module(torch.from_numpy(x))
    made = (made[0] if isinstance(made, tuple | list) else made).numpy()
    assert 0 < _off(source, x) < 0.02 * float(np.abs(made).max())
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (wanted,) = session.run(None, {"x": x})
    assert np.abs(made - wanted).max() < 0.02 * float(np.abs(wanted).max())


def test_the_fused_product_of_onnx_runtime_is_one_of_reals(tmp_path: Path) -> None:
    nodes = [_ort("DynamicQuantizeMatMul", "x mq ms mz col", "y")]
    x = DRAW.uniform(-1, 1, (2, 4)).astype(np.float32)

    source = _imported(_model(nodes, (2, 4), MATRIX), tmp_path)

    assert _kinds(source) == ["MatMul", "Add"]
    # Half a step of each of four inputs through weights of at most 90 steps.
    assert _off(source, x) <= 4 * (1 / 255) * 90 * 0.02


def test_integers_made_at_run_time_that_something_else_reads_stay(tmp_path: Path) -> None:
    quantise = helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"])
    nodes = [quantise, _node("DequantizeLinear", "q qs qz", "y")]
    x = DRAW.uniform(-1, 1, IMAGE).astype(np.float32)

    source = _imported(_model(nodes, IMAGE, {}), tmp_path)

    assert source.notes == ()
    assert _off(source, x) <= 1e-6


MATRIX = {
    "m": DRAW.standard_normal((4, 5)).astype(np.float32),
    "row": DRAW.standard_normal(4).astype(np.float32),
    "col": DRAW.standard_normal(5).astype(np.float32),
    "full": DRAW.standard_normal((2, 4)).astype(np.float32),
    "k": DRAW.standard_normal((3, 3, 3, 3)).astype(np.float32),
    "mq": DRAW.integers(-90, 90, (4, 5), dtype=np.int8),
    "ms": np.float32(0.02),
    "mz": np.int8(0),
    "mb": DRAW.integers(-900, 900, 5, dtype=np.int32),
}
_Q = _node("QuantizeLinear", "x s z", "q")
_D = _node("DequantizeLinear", "r s z", "y")
FUSED = {
    "FusedConv": [_ort("FusedConv", "x k", "y", activation="Relu", pads=[1, 1, 1, 1])],
    "FusedConv leaky": [
        _ort("FusedConv", "x k", "y", activation="LeakyRelu", activation_params=[0.2])
    ],
    "FusedGemm": [_ort("FusedGemm", "x m col", "y", activation="Relu")],
    "FusedMatMul": [_ort("FusedMatMul", "x m", "y", alpha=0.5)],
    "FusedMatMul of a transposed": [_ort("FusedMatMul", "x full", "y", transA=1, alpha=2.0)],
    "Gelu": [_ort("Gelu", "x", "y")],
    "BiasGelu": [_ort("BiasGelu", "x row", "y")],
    "FastGelu": [_ort("FastGelu", "x row", "y")],
    "QuickGelu": [_ort("QuickGelu", "x", "y")],
    "SkipLayerNormalization": [_ort("SkipLayerNormalization", "x full row row", "y")],
    "QLinearMul": [_Q, _ort("QLinearMul", "q s z q s z s z", "r"), _D],
    "QLinearSigmoid": [_Q, _ort("QLinearSigmoid", "q s z s z", "r"), _D],
    "QLinearConcat": [_Q, _ort("QLinearConcat", "s z q s z q s z", "r", axis=1), _D],
    "QGemm": [_Q, _ort("QGemm", "q s z mq ms mz mb s z", "r"), _D],
}


_ROWS, _WIDE = 6, 8  # of the input of an attention layer
LAYERS = {
    "wqkv": DRAW.standard_normal((_WIDE, 3 * _WIDE)).astype(np.float32) / 3,
    "bqkv": DRAW.standard_normal(3 * _WIDE).astype(np.float32),
    "wvar": DRAW.standard_normal((_WIDE, 20)).astype(np.float32) / 3,
    "bvar": DRAW.standard_normal(20).astype(np.float32),
    "lengths": np.array([4, 6], np.int32),
    "keys": np.array([[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 1, 1]], np.int32),
    "pairs": DRAW.integers(0, 2, (2, _ROWS, _ROWS)).astype(np.int32) | np.eye(6, dtype=np.int32),
    "scores": DRAW.standard_normal((1, 2, _ROWS, _ROWS)).astype(np.float32),
    "memory": DRAW.standard_normal((2, 5, _WIDE)).astype(np.float32),
    "values": DRAW.standard_normal((2, 5, 4)).astype(np.float32),
    "bmha": DRAW.standard_normal(20).astype(np.float32),
    "memory_keys": np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 1]], np.int32),
    "ids": DRAW.integers(0, 9, (2, _ROWS)).astype(np.int32),
    "kinds": DRAW.integers(0, 2, (2, _ROWS)).astype(np.int32),
    "words": DRAW.standard_normal((9, _WIDE)).astype(np.float32),
    "places": DRAW.standard_normal((9, _WIDE)).astype(np.float32),
    "gamma": DRAW.standard_normal(_WIDE).astype(np.float32),
    "begun": np.array([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], np.int32),
}


def _bert() -> list[onnx.NodeProto]:
    inputs = ["ids", "kinds", "words", "places", "words", "gamma", "gamma", "begun"]
    embed = helper.make_node(
        "EmbedLayerNormalization", inputs, ["e", "count"], domain="com.microsoft"
    )
    attend = _ort("Attention", "both wqkv bqkv count", "y", num_heads=4)
    return [embed, _node("Add", "e x", "both"), attend]


ATTENTION = {
    "plain": [_ort("Attention", "x wqkv bqkv", "y", num_heads=2)],
    "lengths": [_ort("Attention", "x wqkv bqkv lengths", "y", num_heads=2)],
    "keys left out": [_ort("Attention", "x wqkv bqkv keys", "y", num_heads=2)],
    "pairs left out": [_ort("Attention", "x wqkv - pairs", "y", num_heads=2)],
    "added scores": [_ort("Attention", "x wqkv bqkv - - scores", "y", num_heads=2, scale=0.3)],
    "causal": [_ort("Attention", "x wqkv bqkv keys", "y", num_heads=4, unidirectional=1)],
    "other widths": [
        _ort("Attention", "x wvar bvar", "y", num_heads=2, qkv_hidden_sizes=[8, 8, 4])
    ],
    "of three": [_ort("MultiHeadAttention", "x memory values", "y", num_heads=2)],
    "of three, with bias and mask": [
        _ort("MultiHeadAttention", "x memory values bmha memory_keys", "y", num_heads=2)
    ],
    "behind an embedding": _bert(),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_of_onnx_runtime_is_written_out(name: str) -> None:
    shape = (2, _ROWS, _WIDE)
    model = _model(ATTENTION[name], shape, LAYERS)
    x = DRAW.standard_normal(shape).astype(np.float32)

    module, _ = build_module(model, {"x": torch.from_numpy(x)})
    session = onnxruntime.InferenceSession(model.SerializeToString())

    (there,) = session.run(None, {"x": x})
    np.testing.assert_allclose(module(torch.from_numpy(x)), there, rtol=1e-4, atol=1e-4)


def test_attention_with_a_past_is_refused_by_name() -> None:
    attend = helper.make_node(
        "Attention",
        ["x", "wqkv", "bqkv"],
        ["y", "present"],
        domain="com.microsoft",
        num_heads=2,
    )
    x = torch.zeros(2, _ROWS, _WIDE)

    with pytest.raises(
        UnsupportedOperatorError, match=r"operator Attention .*a past of keys and values.*use_cache"
    ):
        build_module(_model([attend], tuple(x.shape), LAYERS), {"x": x})


@pytest.mark.parametrize("name", FUSED)
def test_operators_of_onnx_runtime_are_written_out(name: str) -> None:
    shape = IMAGE if "Conv" in name else (2, 4)
    model = _model(FUSED[name], shape, STEP | MATRIX)
    x = DRAW.standard_normal(shape).astype(np.float32)

    module, _ = build_module(model, {"x": torch.from_numpy(x)})
    session = onnxruntime.InferenceSession(model.SerializeToString())

    (there,) = session.run(None, {"x": x})
    step = 0.051 if name.startswith("Q") else 0  # a value on the edge of two steps
    np.testing.assert_allclose(module(torch.from_numpy(x)), there, rtol=1e-3, atol=1e-3 + step)
