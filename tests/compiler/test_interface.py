"""The public interface: from STEPS.toml to what each target's form of the model needs."""

from pathlib import Path

import numpy as np
import pytest
from compiler_kit import DIGITS

from edgec_compiler.errors import UsageError
from edgec_compiler.interface import Interface, Steps, fit, interface_of, read_steps
from edgec_runtime.session import ModelTensor

IMAGE = ModelTensor("image", "float32", (1, 1, 32, 32))
LOGITS = ModelTensor("logits", "float32", (1, 10))
A = {"name": "a", "dtype": "uint8", "shape": [-1, 32, 32, 1]}
MADE = {"logits": np.zeros((1, 10), np.float32)}


def _digits() -> Interface:
    return interface_of(read_steps(DIGITS / "steps.toml"), (IMAGE,), MADE)


def _ops(interface: Interface) -> list[str]:
    return [str(s["op"]) for s in (*interface.preprocessing, *interface.postprocessing)]


def test_what_outputs_are_is_found_by_running_the_steps() -> None:
    outputs = _digits().outputs

    assert [(o.name, o.dtype, o.shape) for o in outputs] == [("probabilities", "float32", (-1, 10))]


def test_without_steps_the_interface_is_the_models_own() -> None:
    interface = interface_of(Steps(), (IMAGE,), MADE)

    assert interface.inputs[0].shape == (-1, 1, 32, 32)
    assert interface.outputs[0].name == "logits"
    assert _ops(interface) == []


def test_a_channel_last_form_undoes_the_users_layout_step() -> None:
    nhwc = ModelTensor("image", "float32", (1, 32, 32, 1))

    fitted = fit(_digits(), ((IMAGE,), (LOGITS,)), ((nhwc,), (LOGITS,)), ((0,), ()))

    assert _ops(fitted) == ["decode_image", "resize", "scale", "softmax"]


def test_a_channel_last_form_of_raw_tensors_gets_a_layout_step() -> None:
    raw = interface_of(Steps(), (IMAGE,), {"y": np.zeros((1, 2, 4, 4), np.float32)})
    nhwc = ModelTensor("image", "float32", (1, 32, 32, 1))
    old = ModelTensor("y", "float32", (1, 2, 4, 4))
    new = ModelTensor("y", "float32", (1, 4, 4, 2))

    fitted = fit(raw, ((IMAGE,), (old,)), ((nhwc,), (new,)), ((0,), (0,)))

    assert fitted.preprocessing == ({"op": "layout", "from": "NCHW", "to": "NHWC"},)
    assert fitted.postprocessing == ({"op": "layout", "from": "NHWC", "to": "NCHW"},)


def test_quantised_ends_are_quantised_and_dequantised_around_the_model() -> None:
    into = ModelTensor("image", "int8", (1, 1, 32, 32), 0.5, -3)
    out = ModelTensor("logits", "int8", (1, 10), 0.25, 7)

    fitted = fit(_digits(), ((IMAGE,), (LOGITS,)), ((into,), (out,)), ((), ()))

    assert fitted.preprocessing[-1] == {
        "op": "quantize",
        "scale": 0.5,
        "zero_point": -3,
        "dtype": "int8",
    }
    assert fitted.postprocessing[0] == {"op": "dequantize", "scale": 0.25, "zero_point": 7}
    assert fitted.inputs == _digits().inputs


def test_steps_of_several_inputs_say_which_they_act_on() -> None:
    pair = (ModelTensor("a", "float32", (1, 4)), ModelTensor("b", "int64", (1, 2)))
    narrow = (
        ModelTensor("a", "int8", (1, 4), 0.1, 0),
        ModelTensor("b", "int32", (1, 2)),
    )
    raw = interface_of(Steps(), pair, MADE)

    fitted = fit(raw, (pair, (LOGITS,)), (narrow, (LOGITS,)), ((), ()))

    assert [(s["op"], s["input"]) for s in fitted.preprocessing] == [
        ("quantize", "a"),
        ("cast", "b"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[preprocessing", "not a readable TOML file"),
        ("[[preprocess]]\nop = 'scale'", "unknown 'preprocess'"),
        ("[inputs]\nname = 'x'", "must be a list of tables"),
    ],
)
def test_a_malformed_steps_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "steps.toml"
    file.write_text(text)

    with pytest.raises(UsageError, match=said):
        read_steps(file)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (Steps(preprocessing=({"op": "blur"},)), "blur"),
        (Steps(preprocessing=({"op": "scale", "mean": "much"},)), "mean"),
        (Steps(inputs=(A, {**A, "name": "b"})), "names 2 inputs"),
        (Steps(inputs=({"name": "a"},)), "without dtype and shape"),
        (Steps(outputs=({"name": "a"}, {"name": "b"})), "names 2 outputs"),
        (Steps(inputs=({**A, "dtype": "complex"},)), "dtype"),
        (Steps(inputs=({**A, "colour": "red"},)), "colour"),
        (Steps(postprocessing=({"op": "top_k", "k": 50, "indices": "i"},)), "at least 50 scores"),
    ],
)
def test_steps_that_do_not_fit_are_refused_with_the_reason(steps: Steps, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        interface_of(steps, (IMAGE,), MADE)
