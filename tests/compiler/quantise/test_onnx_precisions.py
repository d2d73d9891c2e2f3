"""Every precision of ONNX: near the float model, smaller, and honest where it does nothing."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from quantise_kit import Small, answers, error, exact, forms_of
from torch import nn

from edgec_compiler.errors import ConversionError
from edgec_compiler.forms import Forms
from edgec_compiler.recipe import Recipe
from edgec_compiler.variants import make_variant
from edgec_hardware_profiles import load

ARM, X86 = load("generic-arm64"), load("generic-x86_64")
ROWS = np.random.default_rng(5).normal(size=(64, 48)).astype(np.float32)


class Dense(nn.Module):
    """Two linear layers: what 4 bits and dynamic quantisation are for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(48, 96), nn.Linear(96, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


@pytest.fixture(scope="module")
def dense() -> Forms:
    torch.manual_seed(0)
    return forms_of(Dense(), ROWS)


@pytest.fixture(scope="module")
def small() -> Forms:
    torch.manual_seed(0)
    return forms_of(Small())


def _ops(payload: bytes) -> set[str]:
    return {node.op_type for node in onnx.ModelProto.FromString(payload).graph.node}


@pytest.mark.parametrize("profile", [ARM, X86], ids=["arm", "x86"])
@pytest.mark.parametrize(
    ("precision", "op", "loss", "size"),
    [
        ("int8", "QuantizeLinear", 0.06, 0.6),
        ("int16x8", "QuantizeLinear", 0.03, 0.6),
        ("int4", "MatMulNBits", 0.2, 0.3),
        ("dynamic", "MatMulInteger", 0.06, 0.5),
        ("int8-weights", "DequantizeLinear", 0.02, 0.5),
        ("fp16", "Cast", 0.005, 0.6),
    ],
)
def test_an_onnx_precision_is_near_the_float_model_and_smaller(
    dense: Forms, profile: object, precision: str, op: str, loss: float, size: float
) -> None:
    exactly = make_variant(dense, ARM, "onnx", Recipe("fp32"))

    made = make_variant(dense, profile, "onnx", Recipe(precision))  # type: ignore[arg-type]

    assert op in _ops(made.payload)
    assert error(answers(dense, profile, "onnx", made), exact(dense)) < loss  # type: ignore[arg-type]
    assert len(made.payload) < size * len(exactly.payload)


@pytest.mark.parametrize("precision", ["int4", "dynamic", "int8-weights"])
def test_a_linear_layer_can_stay_in_float(dense: Forms, precision: str) -> None:
    first = next(node.output[0] for node in dense.onnx(None).graph.node if node.op_type == "Gemm")

    made = make_variant(dense, ARM, "onnx", Recipe(precision, float_layers=(first,)))

    stored = onnx.ModelProto.FromString(made.payload).graph.initializer
    floats = [one for one in stored if one.data_type == onnx.TensorProto.FLOAT]
    assert 48 * 96 in {int(np.prod(one.dims)) for one in floats}
    assert 96 * 8 not in {int(np.prod(one.dims)) for one in floats}


def test_16_bit_activations_lose_less_than_8_bit_ones(small: Forms) -> None:
    wanted = exact(small)

    made = {
        precision: make_variant(small, ARM, "onnx", Recipe(precision))
        for precision in ("int8", "int16x8")
    }

    eight, sixteen = (error(answers(small, ARM, "onnx", one), wanted) for one in made.values())
    assert sixteen < 0.9 * eight


def test_16_bit_activations_need_a_target_with_opset_21(small: Forms) -> None:
    older = replace(ARM, max_opset=19)

    with pytest.raises(ConversionError, match="needs opset 21; target generic-arm64 has 19"):
        make_variant(small, older, "onnx", Recipe("int16x8"))


def test_weights_of_convolutions_become_int8_per_channel(small: Forms) -> None:
    made = make_variant(small, ARM, "onnx", Recipe("int8-weights"))

    graph = onnx.ModelProto.FromString(made.payload).graph
    scales = [one for one in graph.initializer if one.name.endswith("_scale")]
    assert sorted(one.dims[0] for one in scales) == [4, 8, 8]
    assert error(answers(small, ARM, "onnx", made), exact(small)) < 0.02


class Convolution(nn.Module):
    """Nothing that dynamic quantisation or 4 bits could take."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.only(x)


@pytest.mark.parametrize("precision", ["dynamic", "int4"])
def test_a_precision_that_finds_nothing_to_quantise_says_so(precision: str) -> None:
    torch.manual_seed(0)
    forms = forms_of(Convolution())

    with pytest.raises(ConversionError, match=f"{precision}: the model has no matrix product"):
        make_variant(forms, ARM, "onnx", Recipe(precision))


def test_equal_forms_give_equal_bytes(dense: Forms) -> None:
    for precision in ("int16x8", "int4", "dynamic", "int8-weights"):
        made = [make_variant(dense, ARM, "onnx", Recipe(precision)).payload for _ in range(2)]
        assert made[0] == made[1]


@pytest.mark.parametrize(
    ("target", "precision"),
    [("generic-x86_64", "int8"), ("generic-arm64", "int16x8"), ("jetson-orin-nano", "int8")],
)
def test_a_layer_norm_over_several_axes_is_quantised(target: str, precision: str) -> None:
    torch.manual_seed(0)
    norm = nn.LayerNorm([4, 8, 8])
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    forms, profile = forms_of(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm)), load(target)

    made = make_variant(forms, profile, "onnx", Recipe(precision))

    assert {"LayerNormalization", "QuantizeLinear"} <= _ops(made.payload)
    assert error(answers(forms, profile, "onnx", made), exact(forms)) < 0.06
