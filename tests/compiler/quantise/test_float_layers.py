"""Layers have names; the named ones stay in float, whatever the format and the precision."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from quantise_kit import Small, answers, error, exact, forms_of

from edgec_compiler import tflite
from edgec_compiler.errors import UsageError
from edgec_compiler.float_layers import settled
from edgec_compiler.forms import Forms
from edgec_compiler.options import CompileOptions
from edgec_compiler.planning import Plan, plan
from edgec_compiler.quantise.layers import Layer, as_options, chosen, find
from edgec_compiler.recipe import Recipe
from edgec_compiler.variants import layers_of, make_variant
from edgec_hardware_profiles import load

TFLITE, ONNX, CORAL = load("rpi4"), load("generic-arm64"), load("coral-edgetpu")


@pytest.fixture(scope="module")
def forms() -> Forms:
    torch.manual_seed(0)
    return forms_of(Small())


@pytest.fixture(scope="module")
def wanted(forms: Forms) -> np.ndarray:
    return exact(forms)


def _float_weights(payload: bytes, fmt: str) -> int:
    """Return how many weights of convolutions and linear layers are stored as floats."""
    if fmt == "onnx":
        stored = onnx.ModelProto.FromString(payload).graph.initializer
        return sum(
            int(np.prod(one.dims))
            for one in stored
            if one.data_type == onnx.TensorProto.FLOAT and len(one.dims) > 1
        )
    model = tflite.parse(payload, "made")
    return sum(
        int(np.prod(one.shape))
        for one in model.subgraphs[0].tensors
        if tflite.is_constant(model, one)
        and tflite.type_name(one) == "float32"
        and len(one.shape) > 1
    )


def test_layers_are_called_after_operator_and_number_or_after_their_output(forms: Forms) -> None:
    in_tflite, in_onnx = layers_of(forms, TFLITE, "tflite"), layers_of(forms, ONNX, "onnx")

    names = [layer.name for layer in in_tflite]
    assert names == ["CONV_2D:0", "CONV_2D:1", "ADD:2", "MEAN:3", "FULLY_CONNECTED:4"]
    assert {"conv2d", "conv2d_1", "output"} <= {layer.name for layer in in_onnx}
    for layers in (in_tflite, in_onnx):
        counted = {layer.op: layer for layer in layers if layer.weights}
        convolution = counted.get("CONV_2D") or counted["Conv"]
        assert (convolution.weights, convolution.macs) == (8 * 8 * 9 + 8, 8 * 8 * 8 * 8 * 9)
        linear = counted.get("FULLY_CONNECTED") or counted["Gemm"]
        assert (linear.weights, linear.macs) == (8 * 4 + 4, 8 * 4)


@pytest.mark.parametrize(
    ("fmt", "precision", "names", "left"),
    [
        ("tflite", "int8", ("CONV_2D:1",), 8 * 8 * 9),
        ("tflite", "int8", ("CONV_2D:1", "FULLY_CONNECTED:4"), 8 * 8 * 9 + 8 * 4),
        ("tflite", "int16x8", ("CONV_2D:0",), 8 * 3 * 9),
        ("tflite", "int4", ("FULLY_CONNECTED:4",), 8 * 4),
        ("onnx", "int8", ("conv2d_1",), 8 * 8 * 9),
        ("onnx", "int8", ("output", "conv2d"), 8 * 4 + 8 * 3 * 9),
        ("onnx", "fp16", ("conv2d",), 8 * 3 * 9),
    ],
)
def test_a_named_layer_keeps_its_weights_in_float(
    forms: Forms, wanted: np.ndarray, fmt: str, precision: str, names: tuple[str, ...], left: int
) -> None:
    profile = TFLITE if fmt == "tflite" else ONNX

    made = make_variant(forms, profile, fmt, Recipe(precision, float_layers=names))

    assert _float_weights(made.payload, fmt) == left
    assert error(answers(forms, profile, fmt, made), wanted) < 0.2


def test_int4_and_int8_weights_lie_side_by_side(forms: Forms, wanted: np.ndarray) -> None:
    recipe = Recipe("int4", int8_layers=("CONV_2D:1",))

    made = make_variant(forms, TFLITE, "tflite", recipe)

    model = tflite.parse(made.payload, "made")
    types = {
        int(np.prod(one.shape)): tflite.type_name(one)
        for one in model.subgraphs[0].tensors
        if tflite.is_constant(model, one) and len(one.shape) > 1
    }
    assert types == {8 * 3 * 9: "int4", 8 * 8 * 9: "int8", 8 * 4: "int4"}
    assert error(answers(forms, TFLITE, "tflite", made), wanted) < 0.3


@pytest.mark.parametrize("fmt", ["tflite", "onnx"])
def test_with_all_layers_in_float_nothing_is_lost(
    forms: Forms, wanted: np.ndarray, fmt: str
) -> None:
    profile = TFLITE if fmt == "tflite" else ONNX
    names = tuple(layer.name for layer in layers_of(forms, profile, fmt))

    made = make_variant(forms, profile, fmt, replace(Recipe("int8"), float_layers=names))

    assert error(answers(forms, profile, fmt, made), wanted) < 1e-5


def test_a_name_that_no_layer_has_is_answered_with_the_nearest(forms: Forms) -> None:
    with pytest.raises(UsageError, match="CONV_2D:7: no such layer; the nearest are CONV_2D:"):
        make_variant(forms, TFLITE, "tflite", Recipe("int8", float_layers=("CONV_2D:7",)))
    with pytest.raises(UsageError, match="zzz: no such layer; some of this model are CONV_2D:1"):
        make_variant(forms, TFLITE, "tflite", Recipe("int8", float_layers=("zzz",)))


def test_a_target_that_executes_integers_only_takes_no_float_layer(forms: Forms) -> None:
    with pytest.raises(UsageError, match="coral-edgetpu executes integers only"):
        make_variant(forms, CORAL, "tflite", Recipe("int8", float_layers=("CONV_2D:1",)))


def test_options_can_be_pasted_whatever_a_layer_is_called() -> None:
    assert as_options(["CONV_2D:3", "a b"]) == "--float-layer CONV_2D:3 --float-layer 'a b'"
    assert as_options(["-x"]) == "--float-layer=-x"


@pytest.mark.parametrize(
    "pasted", ["CONV_2D:1", " CONV_2D:1,", "'CONV_2D:1'", "conv_2d:1", "the tensor"]
)
def test_a_layer_is_found_as_it_was_printed(pasted: str) -> None:
    layers = (Layer("CONV_2D:1", "CONV_2D", "the tensor", 1, 1), Layer("c", "ADD", "d", 1, 1))

    assert find(layers, pasted) is layers[0]
    assert find(layers, "ADD") is None


def _plans(*floats: str, targets: tuple[str, ...] = ("rpi4", "generic-arm64")) -> tuple[Plan, ...]:
    return plan(
        CompileOptions(
            model="net.onnx",
            targets=targets,
            out="",
            precision="int8",
            calibration=__file__,
            float_layers=floats,
        )
    )


def test_a_name_of_one_format_applies_there_and_is_noted_elsewhere(forms: Forms) -> None:
    plans = settled(_plans("CONV_2D:1", "conv2d"), forms)

    kept = {one.profile.name: one.recipe.float_layers for one in plans}
    assert kept == {"rpi4": ("CONV_2D:1",), "generic-arm64": ("conv2d",)}
    assert [one.note for one in plans] == [
        "--float-layer conv2d: no layer of the tflite form, so not applied",
        "--float-layer CONV_2D:1: no layer of the onnx form, so not applied",
    ]


def test_a_name_that_no_target_knows_is_refused_with_the_nearest_of_all(forms: Forms) -> None:
    with pytest.raises(
        UsageError, match=r"conv2d_7: no such layer; the nearest are conv2d_1, conv2d"
    ):
        settled(_plans("conv2d_7", "CONV_2D:1"), forms)


def test_beside_a_target_with_floats_one_without_any_goes_on() -> None:
    mixed = _plans("CONV_2D:1", targets=("coral-edgetpu", "rpi4"))

    assert [one.recipe.float_layers for one in mixed] == [(), ("CONV_2D:1",)]
    assert "--float-layer: not applied" in str(mixed[0].note)
    with pytest.raises(UsageError, match="coral-edgetpu executes integers only"):
        _plans("CONV_2D:1", targets=("coral-edgetpu",))


def test_layers_are_chosen_in_the_order_of_the_form() -> None:
    layers = tuple(Layer(name, "Conv", name, 1, 1) for name in "abc")

    assert [layer.name for layer in chosen(layers, ["c", "a", "c"])] == ["a", "c"]
