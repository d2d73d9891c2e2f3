"""Configurations that Keras 2 wrote are taken in Keras 3's words, and answer the same."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec_compiler.importers import import_model
from edgec_compiler.importers.keras_words import in_keras_3
from edgec_compiler.sessions import source_session

needs_keras = pytest.mark.skipif(
    importlib.util.find_spec("keras") is None, reason="needs the extra keras"
)
_MAKE = """
import os; os.environ["KERAS_BACKEND"] = "torch"
import json, sys, h5py, keras, numpy as np
L = keras.layers
keras.utils.set_random_seed(0)
inner = keras.Sequential([keras.Input((4, 6)), L.LSTM(6, return_sequences=True, name="lstm")])
x = keras.Input((4, 6), name="x")
h = inner(x)
h = L.MultiHeadAttention(2, 3, name="attention")(h, value=x)
y = L.Dense(2, name="scores")(L.BatchNormalization(name="norm")(h))
model = keras.Model(x, y)
model.save(sys.argv[1])
given = np.random.default_rng(0).random((1, 4, 6), np.float32)
np.savez(sys.argv[2], x=given, y=np.asarray(model(given, training=False).detach()))
"""


def _old(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the model above as Keras 2 writes it."""
    given, inner, attention, norm, scores = config["config"]["layers"]
    layers = inner["config"]["layers"]
    lstm = layers[1]["config"] | {"time_major": False, "batch_input_shape": [None, 4, 6]}
    inner["config"]["layers"] = [layers[1] | {"config": lstm}]
    given["config"]["batch_input_shape"] = given["config"].pop("batch_shape")
    attention["config"] |= {"query_shape": [None, 4, 6]}
    norm["config"]["axis"] = [2]
    inner["inbound_nodes"] = [[["x", 0, 0, {}]]]
    attention["inbound_nodes"] = [[[inner["name"], 1, 0, {"value": ["x", 0, 0]}]]]
    norm["inbound_nodes"] = [[["attention", 0, 0, {}]]]
    scores["inbound_nodes"] = [[["norm", 0, 0, {}]]]
    return config


@needs_keras
def test_a_model_in_the_words_of_keras_2_answers_as_before(tmp_path: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    file, data = tmp_path / "old.h5", tmp_path / "data.npz"
    subprocess.run(
        [sys.executable, "-c", _MAKE, str(file), str(data)], check=True, capture_output=True
    )
    with h5py.File(file, "r+") as stored:
        stored.attrs["model_config"] = json.dumps(_old(json.loads(stored.attrs["model_config"])))

    source = import_model(str(file), {})

    expected = np.load(data)
    made = source_session(source).run({"x": expected["x"]})
    assert [one.name for one in source.inputs] == ["x"]
    assert np.allclose(next(iter(made.values())), expected["y"], atol=1e-6)


IN_KERAS = {"module": "keras.layers", "registered_name": None}


def _layer(kind: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": config}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (_layer("DepthwiseConv2D", groups=1), _layer("DepthwiseConv2D")),
        (_layer("DepthwiseConv2D", groups=2), _layer("DepthwiseConv2D", groups=2)),
        (_layer("Conv2D", groups=1), _layer("Conv2D", groups=1)),
        (_layer("GRU", time_major=False), _layer("GRU")),
        (_layer("GRU", time_major=True), _layer("GRU", time_major=True)),
        (_layer("SeparableConv2D", kernel_initializer={}), _layer("SeparableConv2D")),
        (_layer("BatchNormalization", axis=[3]), _layer("BatchNormalization", axis=3)),
        (_layer("BatchNormalization", axis=[1, 2]), _layer("BatchNormalization", axis=[1, 2])),
        (_layer("Policy", name="mixed_float16"), _layer("Policy", name="float32")),
        (_layer("DTypePolicy", name="float16"), _layer("DTypePolicy", name="float32")),
        (_layer("DTypePolicy", name="float64"), _layer("DTypePolicy", name="float64")),
        (_layer("Dense", dtype="bfloat16"), _layer("Dense", dtype="float32")),
        (
            _layer("TimeDistributed", layer=_layer("Dense", units=2)),
            _layer("TimeDistributed", layer=_layer("Dense", units=2) | IN_KERAS),
        ),
        (_layer("InputLayer", batch_input_shape=[1]), _layer("InputLayer", batch_shape=[1])),
        (
            {"class_name": "Sequential", "config": [_layer("Dense", name="d")]},
            _layer("Sequential", name="sequential", layers=[_layer("Dense", name="d")]),
        ),
        (
            {"class_name": "Functional", "module": "keras.src.engine.functional", "config": {}},
            {
                "class_name": "Functional",
                "module": "keras.src.models.functional",
                "registered_name": None,
                "config": {},
            },
        ),
    ],
)
def test_each_word_of_keras_2_has_one_of_keras_3(old: Any, new: Any) -> None:
    before = json.dumps(old)

    assert in_keras_3(old) == new

    assert in_keras_3(new) == new
    assert json.dumps(old) == before


def test_a_recurrent_layers_first_states_are_arguments_of_their_own() -> None:
    def layer(kind: str, name: str, *given: list[Any]) -> dict[str, Any]:
        return _layer(kind) | {"name": name, "inbound_nodes": [list(given)] if given else []}

    encoder = layer("LSTM", "encoder", ["x", 0, 0, {}])
    decoder = layer(
        "LSTM", "decoder", ["x", 0, 0, {}], ["encoder", 0, 1, {}], ["encoder", 0, 2, {}]
    )
    layers = [layer("InputLayer", "x"), encoder, decoder]

    made = in_keras_3(_layer("Functional", layers=layers, output_layers=[["decoder", 0, 0]]))

    (call,) = made["config"]["layers"][2]["inbound_nodes"]
    assert [one["config"]["keras_history"] for one in call["args"]] == [["x", 0, 0]]
    states = [one["config"]["keras_history"] for one in call["kwargs"]["initial_state"]]
    assert states == [["encoder", 0, 1], ["encoder", 0, 2]]


def test_a_model_called_from_its_first_call_on_keeps_its_numbers() -> None:
    shared = _layer("Functional", layers=[], name="inner") | {"name": "inner"}
    config = {
        "layers": [
            shared | {"inbound_nodes": [[["x", 0, 0, {}]]]},
            _layer("Add") | {"name": "add", "inbound_nodes": [[["inner", 0, 0], ["inner", 1, 0]]]},
        ],
        "output_layers": [["add", 0, 0]],
    }

    made = in_keras_3({"class_name": "Functional", "config": config})

    (given,) = made["config"]["layers"][1]["inbound_nodes"][0]["args"]
    assert [one["config"]["keras_history"] for one in given] == [
        ["inner", 0, 0],
        ["inner", 1, 0],
    ]
