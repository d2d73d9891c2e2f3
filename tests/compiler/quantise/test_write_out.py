"""What a target lacks is written out in operators that it has, and computes the same."""

import numpy as np
import onnx
import pytest
import torch
from quantise_kit import answers, error, exact, forms_of
from torch import nn

from edgec_compiler import tflite
from edgec_compiler.convert.parity import check_same
from edgec_compiler.convert.write_out import lacking, write_out
from edgec_compiler.errors import ConversionError
from edgec_compiler.forms import Forms
from edgec_compiler.mapping.checking import check
from edgec_compiler.mapping.fitting import graph_of
from edgec_compiler.recipe import Recipe
from edgec_compiler.variants import make_variant
from edgec_hardware_profiles import load

FLOAT = {
    "ABS",
    "EMBEDDING_LOOKUP",
    "LEAKY_RELU",
    "MINIMUM",
    "NEG",
    "PRELU",
    "RELU6",
    "SQUARE",
}  # once quantised
CORAL = {"DEPTH_TO_SPACE", "DIV", "ELU", "FULLY_CONNECTED", "LOG", "REVERSE_V2"}
pytestmark = pytest.mark.xdist_group("compiles")


class Curved(nn.Module):
    """Like MobileNetV3: a hard-swish and a squeeze-and-excite; then a GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeeze = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.hardswish(2 * self.first(x))
        gate = nn.functional.adaptive_avg_pool2d(x, 1)
        x = x * nn.functional.hardsigmoid(self.squeeze(gate))
        return self.last(nn.functional.gelu(x).mean((2, 3)))


class Normed(nn.Module):
    """A layer norm over the last axis, and one over two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(8), nn.LayerNorm([8, 8], bias=False)
        with torch.no_grad():
            self.one.weight.uniform_(0.5, 2)
            self.one.bias.uniform_(-1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(x) * x)


@pytest.fixture(scope="module")
def curved() -> Forms:
    torch.manual_seed(0)
    return forms_of(Curved())


def _ops(payload: bytes) -> set[str]:
    model = tflite.parse(payload, "made")
    return {tflite.op_name(model, operator) for operator in model.subgraphs[0].operators}


def test_operators_written_out_compute_what_they_did(curved: Forms) -> None:
    payload = curved.tflite().payload
    assert {"GELU", "HARD_SWISH"} <= _ops(payload)

    made, counts = write_out(payload, ("GELU", "HARD_SWISH"))

    assert counts == {"GELU": 1, "HARD_SWISH": 1}
    assert not {"GELU", "HARD_SWISH"} & _ops(made)
    assert write_out(made, ("GELU", "HARD_SWISH")) == (made, {})


@pytest.mark.parametrize(
    ("target", "ops"),
    [
        ("coral-edgetpu", {"GELU", "HARD_SWISH", "RELU_0_TO_1", *CORAL, *FLOAT}),
        ("cortex-m7", {"GELU", "RELU_0_TO_1", "RELU_N1_TO_1", *FLOAT}),
        ("ethos-u55-128", {"DEPTH_TO_SPACE", "DIV", *FLOAT}),
        ("rpi4", set()),
    ],
)
def test_the_profiles_table_says_what_is_written_out(target: str, ops: set[str]) -> None:
    assert set(lacking(load(target))) == ops


@pytest.mark.parametrize("target", ["coral-edgetpu", "cortex-m7"])
def test_a_target_takes_a_net_whose_activations_it_lacks(curved: Forms, target: str) -> None:
    profile = load(target)

    made = make_variant(curved, profile, "tflite", Recipe("int8"))

    verdicts = check(graph_of(made.payload, "tflite"), profile).ops
    assert [one.reason for one in verdicts if one.reason is not None] == []
    assert error(answers(curved, profile, "tflite", made), exact(curved)) < 0.05
    assert any("written out in operators that the target has" in note for note in made.notes)


def test_a_layer_norm_is_written_out_for_an_opset_without_it() -> None:
    torch.manual_seed(0)
    forms, profile = forms_of(Normed()), load("jetson-nano")

    made = make_variant(forms, profile, "onnx", Recipe("fp32"))

    model = onnx.ModelProto.FromString(made.payload)
    assert model.opset_import[0].version == 15
    assert "LayerNormalization" not in {node.op_type for node in model.graph.node}
    assert np.abs(answers(forms, profile, "onnx", made) - exact(forms)).max() < 1e-4


def test_a_form_that_computes_something_else_is_refused(curved: Forms) -> None:
    torch.manual_seed(1)
    right, other = curved.tflite().payload, forms_of(Curved()).tflite().payload

    check_same(right, write_out(right, ("GELU",))[0], "GELU written out")
    with pytest.raises(ConversionError, match="GELU written out the model computes something else"):
        check_same(right, other, "GELU written out")


class Words(nn.Module):
    """The mean of some words' vectors, judged."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.last(self.table(words).mean(1))


def test_an_embedding_runs_on_a_target_of_integers() -> None:
    torch.manual_seed(0)
    words = np.random.default_rng(0).integers(0, 20, (16, 6))
    forms, profile = forms_of(Words(), words), load("cortex-m7")
    assert "EMBEDDING_LOOKUP" in _ops(forms.tflite().payload)

    made = make_variant(forms, profile, "tflite", Recipe("int8"))

    assert "EMBEDDING_LOOKUP" not in _ops(made.payload)
    assert error(answers(forms, profile, "tflite", made), exact(forms)) < 0.05


class Tokens(nn.Module):
    """The same dense layer over every token, twice, and one over their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.each = nn.Linear(4, 8), nn.Linear(8, 8, bias=False)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.last(self.each(torch.relu(self.each(x))).mean(1))


def test_a_dense_layer_of_several_rows_runs_on_an_accelerator_of_single_ones() -> None:
    torch.manual_seed(0)
    tokens = np.random.default_rng(0).standard_normal((16, 6, 4)).astype(np.float32)
    forms, profile = forms_of(Tokens(), tokens), load("coral-edgetpu")

    made = make_variant(forms, profile, "tflite", Recipe("int8"))

    verdicts = check(graph_of(made.payload, "tflite"), profile).ops
    assert [one.reason for one in verdicts if one.reason is not None] == []
    assert [one.op for one in verdicts if one.op in ("CONV_2D", "FULLY_CONNECTED")] == [
        *["CONV_2D"] * 3,
        "FULLY_CONNECTED",
    ]
    assert error(answers(forms, profile, "tflite", made), exact(forms)) < 0.05
