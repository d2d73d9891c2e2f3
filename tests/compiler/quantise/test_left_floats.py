"""What the quantiser leaves in float between integers becomes integer, by each kernel's rules."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from quantise_kit import IMAGES, answers, error, exact, forms_of
from tflite_kit import Network
from torch import nn
from torch.nn import functional

from edgec_compiler import tflite
from edgec_compiler.convert.fixups import finish
from edgec_compiler.errors import ConversionError
from edgec_compiler.forms import Forms
from edgec_compiler.importers import import_model
from edgec_compiler.quantise.kernels import int8_kernels
from edgec_compiler.quantise.tables import curve, range_of, scale_of, table
from edgec_compiler.recipe import Recipe
from edgec_compiler.variants import make_variant
from edgec_hardware_profiles import load
from edgec_runtime.session import load_session

pytestmark = pytest.mark.xdist_group("compiles")
EACH = 4  # channels that each function makes in the end
Function = Callable[[torch.Tensor], torch.Tensor]


class Between(nn.Module):
    """Functions between a convolution and one of their own each; the outputs joined."""

    def __init__(self, *functions: Function) -> None:
        super().__init__()
        self.functions = functions
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.ModuleList(nn.LazyConv2d(EACH, 1) for _ in functions)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = 2 * self.first(x)
        made = [last(f(x)) for f, last in zip(self.functions, self.last, strict=True)]
        return torch.cat(made, 1)


class Embedding(nn.Module):
    """Like a face or speaker model: an embedding of length 1, as `normalise` makes it."""

    def __init__(self, normalise: Function) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Linear(16, 32)
        self.normalise = normalise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.normalise(self.last(self.first(x).relu().mean((2, 3))))


# As torch has it, as ONNX writes it out, and as people do.
NORMS: dict[str, Function] = {
    "torch": functional.normalize,
    "onnx": lambda x: x / (x * x).sum(1, keepdim=True).sqrt().clamp(1e-12).expand(x.shape),
    "plain": lambda x: x / x.norm(dim=1, keepdim=True),
    "root": lambda x: x * torch.rsqrt(x.square().sum(1, keepdim=True)),
}


def _positive(x: torch.Tensor) -> torch.Tensor:
    return x.relu() + 0.5


# name -> functions, and operators that cortex-m7 and coral-edgetpu run for them
NETS: dict[str, tuple[tuple[Function, ...], set[str], set[str]]] = {
    "curves": (
        (
            functional.elu,
            functional.selu,
            functional.softplus,
            functional.mish,
            lambda x: _positive(x).sqrt(),
            lambda x: _positive(x).log(),
            torch.sin,
            lambda x: (x / 2) ** 3,
        ),
        {"ELU", "LOGISTIC", "GATHER", "DIV"},
        {"TANH", "LOGISTIC", "GATHER", "SQRT"},
    ),
    "picks": (
        (
            lambda x: x.flip(3),
            lambda x: x.amax(1, keepdim=True),
            lambda x: torch.where(x > 0.5, x, 0.2 * x),
            lambda x: x * (x > 0.1).float(),
            lambda x: functional.normalize(x, dim=1),
        ),
        {"REVERSE_V2", "REDUCE_MAX", "SELECT_V2", "CAST", "L2_NORMALIZATION"},
        {"CONCATENATION", "REDUCE_MAX", "SELECT", "CAST", "L2_NORMALIZATION"},
    ),
    "bounds": (
        (lambda x: x.clamp(0, 1), lambda x: x.clamp(-1, 1)),
        {"ADD", "MUL"},
        {"MUL", "RELU_N1_TO_1"},
    ),
}


def _ops(payload: bytes) -> set[str]:
    model = tflite.parse(payload, "made")
    return {tflite.op_name(model, operator) for operator in model.subgraphs[0].operators}


def _types(payload: bytes) -> set[str]:
    model = tflite.parse(payload, "made")
    graph = model.subgraphs[0]
    read = {index for one in graph.operators for index in tflite.given(one.inputs)}
    return {tflite.type_name(graph.tensors[index]) for index in read}


@pytest.fixture(scope="module")
def nets() -> dict[str, Forms]:
    torch.manual_seed(0)
    made = {name: Between(*functions) for name, (functions, _, _) in NETS.items()}
    for net in made.values():
        net(torch.from_numpy(IMAGES[:1]))  # the lazy convolutions see how many channels come
    return {name: forms_of(net) for name, net in made.items()}


@pytest.mark.parametrize("target", ["cortex-m7", "coral-edgetpu", "ethos-u55-128"])
@pytest.mark.parametrize("name", NETS)
def test_a_target_of_integers_computes_it_in_integers(
    name: str, target: str, nets: dict[str, Forms]
) -> None:
    forms, profile = nets[name], load(target)
    wanted = exact(forms)

    made = make_variant(forms, profile, "tflite", Recipe("int8"))

    _, micro, coral = NETS[name]
    if target != "ethos-u55-128":
        assert (coral if target == "coral-edgetpu" else micro) <= _ops(made.payload)
    assert "float32" not in _types(made.payload)
    given = answers(forms, profile, "tflite", made)
    spread = wanted.std()
    for place in range(0, wanted.shape[1], EACH):
        part = slice(place, place + EACH)
        # A few steps of the joined output's 255; the jumps of a choice weigh more than a curve.
        off = np.sqrt(np.square(given[:, part] - wanted[:, part]).mean())
        assert off < 0.06 * spread, f"function {place // EACH}"


@pytest.mark.parametrize("name", NORMS)
def test_an_embedding_of_length_one_is_normalised_by_one_operator(name: str) -> None:
    torch.manual_seed(0)
    forms, profile = forms_of(Embedding(NORMS[name])), load("coral-edgetpu")

    made = make_variant(forms, profile, "tflite", Recipe("int8"))

    model = tflite.parse(made.payload, "made")
    assert tflite.op_name(model, model.subgraphs[0].operators[-1]) == "L2_NORMALIZATION"
    assert error(answers(forms, profile, "tflite", made), exact(forms)) < 0.04


def test_the_place_of_the_largest_is_found_among_integers() -> None:
    torch.manual_seed(0)
    forms = forms_of(nn.Sequential(nn.Conv2d(3, 8, 3), Largest()))

    made = make_variant(forms, load("ethos-u85-256"), "tflite", Recipe("int8"))

    assert "DEQUANTIZE" not in _ops(made.payload)
    same = answers(forms, load("ethos-u85-256"), "tflite", made) == exact(forms)
    assert same.mean() > 0.9  # the others are nearly as large


class Ends(nn.Module):
    """A convolution over rows, and what a function makes of it: several outputs."""

    def __init__(self, ends: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]) -> None:
        super().__init__()
        self.first, self.ends = nn.Conv1d(4, 6, 3, padding=1), ends

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.ends(self.first(x))


@pytest.mark.parametrize(
    ("target", "ends"),
    [
        ("cortex-m7", lambda y: (y, y.amax(2))),
        ("cortex-m7", lambda y: (y.amax(2), y)),
        ("ethos-u55-128", lambda y: (torch.logsumexp(y, 1), y)),
    ],
)
def test_an_output_that_is_read_too_is_given_out_as_integers(
    target: str, ends: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(32, 4, 20)).astype(np.float32)
    forms, profile = forms_of(Ends(ends), rows), load(target)

    made = make_variant(forms, profile, "tflite", Recipe("int8"))

    graph = tflite.parse(made.payload, "made").subgraphs[0]
    assert {tflite.type_name(graph.tensors[index]) for index in graph.outputs} == {"int8"}
    assert "float32" not in _types(made.payload)
    assert error(answers(forms, profile, "tflite", made), exact(forms)) < 0.06


@pytest.mark.parametrize("target", ["ethos-u55-128", "rpi4"])
def test_what_is_asked_of_infinities_is_answered_before_quantising(target: str) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(32, 4, 20)).astype(np.float32)
    forms, profile = forms_of(Ends(lambda y: (torch.logsumexp(y, 1),)), rows), load(target)
    assert {"EQUAL", "SELECT_V2"} <= _ops(forms.tflite().payload)

    made = make_variant(forms, profile, "tflite", Recipe("int8"))

    assert not {"EQUAL", "SELECT_V2"} & _ops(made.payload)
    tensors = tflite.parse(made.payload, "made").subgraphs[0].tensors
    assert np.isfinite([scale for one in tensors for scale in tflite.quantisation(one)[0]]).all()
    assert error(answers(forms, profile, "tflite", made), exact(forms)) < 0.06


def test_the_weights_of_a_resize_are_computed_before_it_is_quantised() -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(32, 4, 11)).astype(np.float32)
    resize = partial(functional.interpolate, scale_factor=2, mode="linear")
    forms, profile = forms_of(Ends(lambda y: (resize(y),)), rows), load("cortex-m7")

    made = make_variant(forms, profile, "tflite", Recipe("int8"))

    assert "RELU_0_TO_1" not in _ops(forms.tflite().payload)
    assert "float32" not in _types(made.payload)
    assert error(answers(forms, profile, "tflite", made), exact(forms)) < 0.03


def test_an_output_that_stays_float_is_told_with_what_makes_it() -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(4, 4, 20)).astype(np.float32)
    forms = forms_of(Ends(lambda y: (y,)), rows)
    model = tflite.parse(forms.tflite().payload, "made")
    graph = model.subgraphs[0]
    for index in {int(i) for one in graph.operators for i in one.outputs} - {*graph.outputs}:
        graph.tensors[index].type = schema.TensorType.INT8
    graph.operators[-1].opcodeIndex = tflite.operator_code(
        model, schema.BuiltinOperator.DEQUANTIZE, 1
    )

    with pytest.raises(
        ConversionError, match=r"but input x, output \w+ \(made by DEQUANTIZE\) would"
    ):
        finish(tflite.serialise(model), forms.source, full_integer=True)


def test_a_reshape_to_a_number_reads_no_constant_of_nothing(tmp_path: Path) -> None:
    net = Network()
    x = net.input([1], "int32", "x")
    number = net.tensor("number", [], "int32")
    net.op("RESHAPE", [x, net.tensor("nothing", [0], "int32", [])], number)
    axis = net.tensor("axis", [], "int32", 0)
    y = net.op("EXPAND_DIMS", [number, axis], net.tensor("y", [1], "int32"))
    (tmp_path / "m.tflite").write_bytes(net.bytes(y))
    source = import_model(str(tmp_path / "m.tflite"), {})

    made = finish(net.bytes(y), source, full_integer=True)

    reshape = tflite.parse(made, "m").subgraphs[0].operators[0]
    assert [int(index) for index in reshape.inputs] == [x]
    session = load_session(made, "litert")
    assert session.run({"x": np.array([7], np.int32)})["y"].tolist() == [7]
    session.close()


class Backward(nn.Module):
    """A recurrent layer that reads from the end, as Keras and torch write one out."""

    def __init__(self) -> None:
        super().__init__()
        self.given, self.past = nn.Linear(6, 8), nn.Linear(8, 8)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned, state, made = x.flip(1), torch.zeros(1, 8), []
        for step in range(x.shape[1]):
            state = torch.tanh(self.given(turned[:, step]) + self.past(state))
            made.append(state)
        return self.last(torch.stack(made, 1).flip(1))


def test_a_layer_that_reads_backwards_needs_no_reversal() -> None:
    torch.manual_seed(0)
    sequences = np.random.default_rng(0).normal(size=(32, 5, 6)).astype(np.float32)
    forms, profile = forms_of(Backward(), sequences), load("cortex-m7")

    made = make_variant(forms, profile, "tflite", Recipe("int8"))

    assert "REVERSE_V2" not in _ops(forms.tflite().payload)
    assert "float32" not in _types(made.payload)
    assert error(answers(forms, profile, "tflite", made), exact(forms)) < 0.06


class Largest(nn.Module):
    """Which channel is the largest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(1)


def test_a_table_holds_what_every_integer_becomes() -> None:
    root = curve("SQRT", ())
    assert root is not None

    # Steps of 1/2 from zero point -128: 0, 0.5, ... 127.5; made in steps of 1/16 from -128.
    made = table(root, (0.5, -128), (1 / 16, -128))

    assert made[:3].tolist() == [-128, round(np.sqrt(0.5) * 16) - 128, 16 - 128]
    assert made[-1] == round(np.sqrt(127.5) * 16) - 128
    assert table(root, (0.5, 0), (1 / 16, -128))[0] == -128  # no root of -64


def test_only_functions_of_one_value_have_a_table() -> None:
    two = np.array([2.0], np.float32)

    assert curve("EXP", ()) is not None
    assert curve("POW", (two,)) is not None
    assert curve("POW", (None,)) is None
    assert curve("EXP", (two,)) is None
    assert curve("ADD", ()) is None


def test_scales_reach_what_they_are_of() -> None:
    assert range_of(*scale_of(-1, 3)) == pytest.approx((-1, 3), abs=4 / 255)
    assert range_of(*scale_of(2, 3)) == pytest.approx((0, 3))
    assert scale_of(0, 0)[0] > 0
    assert range_of(1 / 128, 0) == (-1, 127 / 128)


def test_a_microcontroller_has_fewer_kernels_than_a_host() -> None:
    host, micro = int8_kernels(load("coral-edgetpu")), int8_kernels(load("cortex-m7"))

    assert micro < host
    assert {"EXP", "LOG", "SQRT", "TILE", "SELECT"} <= host - micro
    assert {"EXP", "LOG", "TILE"} <= int8_kernels(load("ethos-u55-128"))
