"""Statistics and precisions: true ranges, bounded error, ends that stay what they were."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgec_compiler.convert.fixups import finish, float_operators
from edgec_compiler.convert.to_onnx import serialise, to_onnx
from edgec_compiler.convert.to_tflite import FloatTflite, to_tflite
from edgec_compiler.errors import ConversionError
from edgec_compiler.importers.torch_file import describe
from edgec_compiler.passes import capture, run_passes
from edgec_compiler.quantise import onnx_precision, tflite_precision
from edgec_compiler.quantise.ranges import MinMax, observe_onnx, observe_tflite
from edgec_compiler.source import SourceModel
from edgec_hardware_profiles import Quantization
from edgec_runtime.session import load_session

pytestmark = pytest.mark.xdist_group("compiles")
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
        self.onnx: onnx.ModelProto = to_onnx(graph, self.source, None)
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


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1), min_size=1))
@settings(max_examples=50)
def test_a_range_is_the_least_and_greatest_value_whatever_the_portions(
    portions: list[list[float]],
) -> None:
    seen = MinMax({})

    for portion in portions:
        seen.add("t", np.array(portion, np.float32))

    everything = [value for portion in portions for value in portion]
    assert seen.ranges["t"] == (min(everything), max(everything))


def test_a_range_refuses_what_is_not_finite() -> None:
    with pytest.raises(ConversionError, match="tensor 't' nan"):
        MinMax({}).add("t", np.array([1, np.nan], np.float32))


def test_both_forms_see_the_same_ranges(forms: Forms) -> None:
    through_tflite = observe_tflite(forms.tflite.payload, ({"t0": _nhwc(x)} for x in SAMPLES))
    through_onnx = observe_onnx(forms.onnx, ({"x": x} for x in SAMPLES))

    output = max(forms.wanted.max(), -forms.wanted.min())
    for ranges in (through_tflite, through_onnx):
        assert any(np.isclose(max(high, -low), output, rtol=1e-4) for low, high in ranges.values())
        assert (float(SAMPLES.min()), float(SAMPLES.max())) in ranges.values()


def test_weights_are_not_observed(forms: Forms) -> None:
    ranges = observe_tflite(forms.tflite.payload, ({"t0": _nhwc(x)} for x in SAMPLES[:1]))

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
    ],
)
def test_a_tflite_precision_stays_near_the_float_model(
    forms: Forms, precision: str, dtype: str, share: float
) -> None:
    ranges = observe_tflite(forms.tflite.payload, ({"t0": _nhwc(x)} for x in SAMPLES))

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
    ranges = observe_onnx(forms.onnx, ({"x": x} for x in SAMPLES))

    payload = serialise(onnx_precision.to_qdq(forms.onnx, ranges, style))

    session = load_session(payload, "onnxruntime", optimise=False)
    made = np.concatenate([session.run({"x": x})["output"] for x in SAMPLES])
    assert np.abs(made - forms.wanted).max() <= share * np.ptp(forms.wanted)
    ops = {node.op_type for node in onnx.ModelProto.FromString(payload).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops


def test_half_precision_keeps_float_ends(forms: Forms) -> None:
    session = load_session(serialise(onnx_precision.to_half(forms.onnx)), "onnxruntime")

    assert session.inputs[0].dtype == session.outputs[0].dtype == "float32"
    made = np.concatenate([session.run({"x": x})["output"] for x in SAMPLES])
    np.testing.assert_allclose(made, forms.wanted, atol=5e-3 * np.ptp(forms.wanted))


def test_a_full_integer_target_refuses_what_stays_float(forms: Forms) -> None:
    assert float_operators(forms.tflite.payload)

    with pytest.raises(ConversionError, match=r"operators stay float: (PAD|CONV_2D)"):
        finish(forms.tflite.payload, forms.source, full_integer=True)


def test_a_target_with_older_opsets_is_told() -> None:
    with pytest.raises(ConversionError, match="has ONNX opset 11; edgec writes 18"):
        to_onnx(None, None, 11)  # type: ignore[arg-type]
