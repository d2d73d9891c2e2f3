"""Keras's recurrent layers: whole operators that answer as Keras does, step by step, itself."""

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import fx

from edgec_compiler.composites import recurrent
from edgec_compiler.convert.to_onnx import serialise, to_onnx
from edgec_compiler.importers import import_model
from edgec_compiler.passes import capture, run_passes
from edgec_compiler.source import SourceModel

pytestmark = [
    pytest.mark.xdist_group("compiles"),
    pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="needs the extra keras"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras saves
]
X = np.random.default_rng(1).normal(size=(1, 5, 3)).astype(np.float32)
Layers = Callable[[Any], list[Any]]
WHOLE: dict[str, tuple[Layers, tuple[Any, ...]]] = {
    "lstm, then a gru of its last": (
        lambda k: [k.LSTM(4, return_sequences=True), k.GRU(6)],
        (recurrent.LSTM, recurrent.GRU),
    ),
    "gru with an early reset": (lambda k: [k.GRU(4, reset_after=False)], (recurrent.GRU,)),
    "backwards": (
        lambda k: [k.GRU(4, go_backwards=True, return_sequences=True)],
        (recurrent.GRU,),
    ),
    "plain, with relu and no bias": (
        lambda k: [k.SimpleRNN(4, activation="relu", use_bias=False)],
        (recurrent.RNN,),
    ),
    "both ways": (
        lambda k: [k.Bidirectional(k.LSTM(4, return_sequences=True)), k.Bidirectional(k.GRU(4))],
        (recurrent.LSTM, recurrent.LSTM, recurrent.GRU, recurrent.GRU),
    ),
    "stacked cells": (
        lambda k: [k.RNN([k.LSTMCell(4), k.GRUCell(6)], return_sequences=True)],
        (recurrent.LSTM, recurrent.GRU),
    ),
}
STEPWISE: dict[str, Layers] = {
    "another activation": lambda k: [k.LSTM(4, recurrent_activation="hard_sigmoid")],
    "a mask": lambda k: [k.Masking(), k.LSTM(4)],
}


def _keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    return importlib.import_module("keras")


def _saved(make: Layers, folder: Path) -> tuple[SourceModel, np.ndarray]:
    """Return a Keras model of these layers as imported, and Keras's own answer."""
    keras = _keras()
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(X.shape[1:], batch_size=1), *make(keras.layers)])
    draw = np.random.default_rng(0)
    for weight in model.weights:  # biases are zeros at first
        weight.assign(draw.normal(0, 0.5, weight.shape))
    answer = np.asarray(model(X, training=False).detach())
    model.save(folder / "net.keras")
    return import_model(str(folder / "net.keras"), {}), answer


def _graph(source: SourceModel) -> fx.GraphModule:
    assert source.module is not None
    graph = capture(source.module, source.example())
    run_passes(graph, source.example())
    return graph


def _whole(graph: fx.GraphModule) -> tuple[Any, ...]:
    kinds = (recurrent.LSTM, recurrent.GRU, recurrent.RNN)
    return tuple(node.target for node in graph.graph.nodes if node.target in kinds)


@pytest.mark.parametrize(("make", "kinds"), WHOLE.values(), ids=WHOLE)
def test_a_layer_is_one_operator_that_answers_as_keras(
    make: Layers, kinds: tuple[Any, ...], tmp_path: Path
) -> None:
    source, answer = _saved(make, tmp_path)

    graph = _graph(source)

    assert _whole(graph) == kinds
    np.testing.assert_allclose(graph(torch.from_numpy(X)).detach(), answer, atol=1e-5)


@pytest.mark.parametrize("make", STEPWISE.values(), ids=STEPWISE)
def test_what_onnx_has_no_operator_for_runs_step_by_step(make: Layers, tmp_path: Path) -> None:
    source, answer = _saved(make, tmp_path)

    graph = _graph(source)

    assert not _whole(graph)
    np.testing.assert_allclose(graph(torch.from_numpy(X)).detach(), answer, atol=1e-5)


def test_onnx_gets_layers_both_ways_without_states_and_reversals(tmp_path: Path) -> None:
    source, answer = _saved(WHOLE["both ways"][0], tmp_path)

    form = to_onnx(_graph(source), source)

    layers = [node for node in form.graph.node if node.op_type in ("LSTM", "GRU")]
    others = {node.op_type for node in form.graph.node} - {"LSTM", "GRU"}
    assert [node.op_type for node in layers] == ["LSTM", "LSTM", "GRU", "GRU"]
    assert others <= {"Reshape", "Squeeze", "Concat", "Transpose"}
    assert all(len([name for name in node.input if name]) == 4 for node in layers)
    session = onnxruntime.InferenceSession(serialise(form))
    made = session.run(None, {source.inputs[0].name: X})[0]
    np.testing.assert_allclose(made, answer, atol=1e-5)


@pytest.mark.parametrize("version", ["2.2.4", None], ids=["keras 2", "keras 1"])
def test_a_hard_sigmoid_of_keras_2_keeps_its_slope(version: str | None, tmp_path: Path) -> None:
    h5py: Any = pytest.importorskip("h5py")
    keras = _keras()
    layers = [
        keras.Input((3,)),
        keras.layers.Activation("hard_sigmoid"),
        keras.layers.Reshape((1, 3)),
        keras.layers.LSTM(2, recurrent_activation="hard_sigmoid"),
    ]
    model = keras.Sequential(layers)
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        del file.attrs["keras_version"]
        if version is not None:
            file.attrs["keras_version"] = version
    w, _, b = (np.asarray(one.value.detach()) for one in model.layers[-1].cell.weights)
    x = np.array([[0.5, -1, 9]], np.float32)

    source = import_model(str(tmp_path / "m.h5"), {})

    def gate(values: Any) -> Any:
        return np.clip(0.2 * values + 0.5, 0, 1)

    i, _, c, o = np.split(gate(x) @ w + b, 4, axis=1)
    wanted = gate(o) * np.tanh(gate(i) * np.tanh(c))
    assert source.module is not None
    np.testing.assert_allclose(source.module(torch.from_numpy(x)).detach(), wanted, atol=1e-6)
