"""Statistics and precisions: true ranges, bounded error, ends that stay what they were."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgec_compiler.convert.fixups import counted, finish, float_operators
from edgec_compiler.convert.to_onnx import lowered, serialise, to_onnx
from edgec_compiler.convert.to_tflite import FloatTflite, to_tflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.importers.torch_file import describe
from edgec_compiler.passes import capture, run_passes
from edgec_compiler.quantise import onnx_precision, tflite_precision
from edgec_compiler.quantise.clipping import Scheme
from edgec_compiler.quantise.ranges import observe_onnx, observe_tflite
from edgec_compiler.source import SourceModel
from edgec_hardware_profiles import Quantization
from edgec_runtime.session import load_session

INT8 = Scheme(8, symmetric=False)
GENERIC = Quantization(reduce_range=False, qdq_style="generic", judged="exact")
SAMPLES = np.random.default_rng(0).normal(size=(32, 1, 3, 8, 8)).astype(np.float32)


class Small(nn.Module):
    """A convolution, a residual and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        x = x + self.second(x)
        return self.last(x.mean((2, 3)))


class Forms:
    """The small model in its float forms."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        module = Small().eval()
        self.source: SourceModel = describe(
            module, [torch.from_numpy(SAMPLES[0])], ["x"], "small", "0" * 64, 0
        )
        graph = capture(self.source.module, self.source.example())
        run_passes(graph, self.source.example())
        self.tflite: FloatTflite = to_tflite(graph, self.source)
        self.onnx: onnx.ModelProto = to_onnx(graph, self.source)
        with torch.no_grad():
            self.wanted = module(torch.from_numpy(SAMPLES[:, 0])).numpy()


@pytest.fixture(scope="module")
def forms() -> Forms:
    return Forms()


def _nhwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _run_tflite(payload: bytes) -> np.ndarray:
    session = load_session(payload, "litert")
    into, out = session.inputs[0], session.outputs[0]
    made = []
    for x in SAMPLES:
        value = _nhwc(x)
        if into.scale is not None:
            limits = np.iinfo(into.dtype)
            steps = np.rint(value / into.scale) + into.zero_point
            value = np.clip(steps, limits.min, limits.max).astype(into.dtype)
        result = session.run({into.name: value})[out.name]
        if out.scale is not None:
            result = (result.astype(np.float32) - out.zero_point) * out.scale
        made.append(result[0])
    session.close()
    return np.stack(made)


def test_both_forms_see_the_same_ranges(forms: Forms) -> None:
    through_tflite = observe_tflite(
        forms.tflite.payload, ({"t0": _nhwc(x)} for x in SAMPLES)
    ).ranges("minmax", INT8)
    through_onnx = observe_onnx(forms.onnx, ({"x": x} for x in SAMPLES)).ranges("minmax", INT8)

    output = max(forms.wanted.max(), -forms.wanted.min())
    for ranges in (through_tflite, through_onnx):
        assert any(np.isclose(max(high, -low), output, rtol=1e-4) for low, high in ranges.values())
        assert (float(SAMPLES.min()), float(SAMPLES.max())) in ranges.values()


def test_weights_are_not_observed(forms: Forms) -> None:
    ranges = observe_tflite(forms.tflite.payload, ({"t0": _nhwc(x)} for x in SAMPLES[:1])).ranges(
        "minmax", INT8
    )

    session = load_session(forms.tflite.payload, "litert")
    assert set(ranges) >= {session.outputs[0].name}
    assert len(ranges) <= 8  # input, three layers, sums and padding; no weight, no bias


@pytest.mark.parametrize(
    ("precision", "dtype", "share"),
    [
        ("fp32", "float32", 1e-5),
        ("fp16", "float32", 5e-3),
        ("int16x8", "int16", 0.02),
        ("int8", "int8", 0.05),
        ("int4", "int8", 0.3),
        ("dynamic", "float32", 0.05),
        ("int8-weights", "float32", 0.02),
    ],
)
def test_a_tflite_precision_stays_near_the_float_model(
    forms: Forms, precision: str, dtype: str, share: float
) -> None:
    ranges = observe_tflite(forms.tflite.payload, ({"t0": _nhwc(x)} for x in SAMPLES)).ranges(
        "minmax", INT8
    )

    made = tflite_precision.quantise(forms.tflite.payload, precision, ranges, full_integer=False)
    payload = finish(made, forms.source, full_integer=False)

    session = load_session(payload, "litert")
    assert (session.inputs[0].name, session.inputs[0].dtype) == ("x", dtype)
    span = np.ptp(forms.wanted)
    assert np.abs(_run_tflite(payload) - forms.wanted).max() <= share * span


@pytest.mark.parametrize(
    ("style", "share"),
    [
        (GENERIC, 0.05),
        (Quantization(reduce_range=True, qdq_style="generic", judged="serving"), 0.08),
        (Quantization(reduce_range=False, qdq_style="tensorrt", judged="exact"), 0.08),
    ],
)
def test_an_onnx_int8_style_stays_near_the_float_model(
    forms: Forms, style: Quantization, share: float
) -> None:
    ranges = observe_onnx(forms.onnx, ({"x": x} for x in SAMPLES)).ranges("minmax", INT8)

    payload = serialise(onnx_precision.to_qdq(forms.onnx, ranges, style))

    session = load_session(payload, "onnxruntime", optimise=False)
    made = np.concatenate([session.run({"x": x})["output"] for x in SAMPLES])
    assert np.abs(made - forms.wanted).max() <= share * np.ptp(forms.wanted)
    ops = {node.op_type for node in onnx.ModelProto.FromString(payload).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops


def test_half_precision_keeps_float_ends(forms: Forms) -> None:
    session = load_session(
        serialise(onnx_precision.quantise(forms.onnx, "fp16", None, GENERIC)), "onnxruntime"
    )

    assert session.inputs[0].dtype == session.outputs[0].dtype == "float32"
    made = np.concatenate([session.run({"x": x})["output"] for x in SAMPLES])
    np.testing.assert_allclose(made, forms.wanted, atol=5e-3 * np.ptp(forms.wanted))


def test_a_full_integer_target_refuses_what_stays_float(forms: Forms) -> None:
    assert float_operators(forms.tflite.payload)

    with pytest.raises(ConversionError, match=r"integers only, but (\d+ x )?(PAD|CONV_2D)"):
        finish(forms.tflite.payload, forms.source, full_integer=True)


def test_operators_that_repeat_are_counted() -> None:
    assert counted(["A", "B", "A"]) == "2 x A, B"
    assert counted(["A", "B", "C", "B", "C", "C"], most=1) == "A, and 5 more"


def test_an_older_opset_computes_the_same(forms: Forms) -> None:
    older = lowered(forms.onnx, 15)

    assert older.opset_import[0].version == 15
    session = load_session(serialise(older), "onnxruntime")
    made = np.concatenate([session.run({"x": x})["output"] for x in SAMPLES])
    np.testing.assert_allclose(made, forms.wanted, rtol=1e-4, atol=1e-5)


def test_an_operator_without_an_older_form_is_told() -> None:
    node = onnx.helper.make_node("BitwiseNot", ["x"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT32, [1, 4]) for n in "xy"]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])

    with pytest.raises(ConversionError, match=r"opset 15; edgec writes 18.*BitwiseNot"):
        lowered(model, 15)


@pytest.mark.parametrize("weight", [0.0, 1e-12])
def test_a_channel_with_hardly_a_weight_keeps_its_bias(weight: float) -> None:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight[0] = weight
        layer.bias[:] = torch.tensor([3.0, -1.0])
    net = nn.Sequential(layer, nn.ReLU(), nn.Linear(2, 2)).eval()
    x = torch.linspace(-1, 1, 4)[None]
    source = describe(net, [x], ["x"], "pruned", "0" * 64, 0)
    form = to_tflite(capture(source.module, source.example()), source)
    feeds = [{load_session(form.payload, "litert").inputs[0].name: x.numpy()}]
    ranges = observe_tflite(form.payload, feeds).ranges("minmax", INT8)

    for precision in ("int8", "int4"):
        quantised = tflite_precision.quantise(form.payload, precision, ranges, full_integer=False)
        session = load_session(finish(quantised, source, full_integer=False), "litert")
        given = session.inputs[0]
        assert given.scale is not None
        q = np.clip(np.rint(x.numpy() / given.scale) + (given.zero_point or 0), -128, 127)
        made = session.run({"x": q.astype(given.dtype)})["output"].astype(np.float64)
        output = session.outputs[0]
        assert output.scale is not None
        made = (made - (output.zero_point or 0)) * output.scale
        with torch.no_grad():
            wanted = net(x).numpy()
        np.testing.assert_allclose(made, wanted, atol=0.1 * np.abs(wanted).max())
