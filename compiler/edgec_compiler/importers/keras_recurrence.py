"""Keras's LSTM, GRU and SimpleRNN, kept whole: one recurrent operator each, and not its steps.

Keras runs them step by step. Here a layer runs its cell, or cell after cell where they are stacked,
over the whole sequence by the operators of `composites.recurrent`.

Left as they are: layers that are given a mask, that train, that compute in another type than
float32, and cells of other kinds or with other activations.
"""

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from edgec_compiler.composites import recurrent

_ACTIVATIONS = {name.lower(): name for name in recurrent.ACTIVATIONS}
_States = list[Tensor]
# What runs a cell over x [time, batch, input] from its states [batch, units] on, in a direction:
# outputs [time, batch, units] in the order of time, and the last states.
_Run = Callable[[Any, Tensor, _States, str, list[str]], tuple[Tensor, _States]]


def keep_whole(model: Any) -> None:
    """Let the recurrent layers of a Keras model, in wrappers too, run as one operator."""
    for layer in model._flatten_layers():
        cells = _cells(layer)
        if all(_activations(cell) is not None for cell in cells):
            layer.inner_loop = MethodType(_inner_loop, layer)


def _inner_loop(
    self: Any, sequences: Tensor, initial_state: Any, mask: Any, training: bool = False
) -> tuple[Tensor, Tensor, Any]:
    """Take the place of Keras's method: return the last output, all outputs, the last states.

    Args:
        self: the layer.
        sequences: [batch, time, input].
        initial_state: [batch, units] each, one list per cell if cells are stacked.
        mask: None, or which steps count.
        training: whether dropout is at work.

    Outputs are [batch, time, units], in the order in which they were made.
    """
    masks = mask if isinstance(mask, list | tuple) else [mask]
    if training or any(one is not None for one in masks):
        made: tuple[Tensor, Tensor, Any] = type(self).inner_loop(
            self, sequences, initial_state, mask=mask, training=training
        )
        return made
    cells = _cells(self)
    stacked = len(cells) > 1
    given = initial_state if stacked else [initial_state]
    direction = "reverse" if self.go_backwards else "forward"
    x, states = sequences.transpose(0, 1), []
    for cell, state in zip(cells, given, strict=True):
        known = list(state) if isinstance(state, list | tuple) else [state]
        x, last = _RUNS[type(cell).__name__](cell, x, known, direction, _activations(cell) or [])
        states.append(last)
    outputs = x.transpose(0, 1)
    outputs = outputs.flip(1) if self.go_backwards else outputs
    return states[-1][0], outputs, states if stacked else states[0]


def _cells(layer: Any) -> Sequence[Any]:
    """Return the cells that a layer runs in turn, one that is None if it is no recurrent layer."""
    cell = getattr(layer, "cell", None)
    cells: Sequence[Any] = getattr(cell, "cells", [cell])
    return cells


def _activations(cell: Any) -> list[str] | None:
    """Return a cell's activations as ONNX names and orders them; None if it is not kept whole."""
    if type(cell).__name__ not in _RUNS or cell.compute_dtype != "float32":
        return None
    given = [cell.activation]
    if gate := getattr(cell, "recurrent_activation", None):
        given = [gate, cell.activation, *([cell.activation] if _is_lstm(cell) else [])]
    names = [_ACTIVATIONS.get(getattr(one, "__name__", "")) for one in given]
    return None if None in names else [name for name in names if name is not None]


def _is_lstm(cell: Any) -> bool:
    return type(cell).__name__ == "LSTMCell"


def _matrix(weights: Any) -> Tensor:
    """Return weights [in, gates * units] as ONNX has them: [1, gates * units, in]."""
    return torch.as_tensor(weights.value).t().unsqueeze(0)


def _run_rnn(
    cell: Any, x: Tensor, states: _States, direction: str, activations: list[str]
) -> tuple[Tensor, _States]:
    w, r = _matrix(cell.kernel), _matrix(cell.recurrent_kernel)
    b = _bias(cell)
    y, h = recurrent.RNN(x, w, r, b, states[0].unsqueeze(0), direction, activations)
    return y.reshape(y.shape[0], *h.shape[1:]), [h.squeeze(0)]


def _run_gru(
    cell: Any, x: Tensor, states: _States, direction: str, activations: list[str]
) -> tuple[Tensor, _States]:
    w, r = _matrix(cell.kernel), _matrix(cell.recurrent_kernel)
    b, late = _bias(cell), cell.reset_after
    y, h = recurrent.GRU(x, w, r, b, states[0].unsqueeze(0), direction, activations, late)
    return y.reshape(y.shape[0], *h.shape[1:]), [h.squeeze(0)]


def _run_lstm(
    cell: Any, x: Tensor, states: _States, direction: str, activations: list[str]
) -> tuple[Tensor, _States]:
    w, r = (_gates(_matrix(one)) for one in (cell.kernel, cell.recurrent_kernel))
    b = _bias(cell)
    b = None if b is None else _gates(b, 8)
    h0, c0 = (state.unsqueeze(0) for state in states)
    y, h, c = recurrent.LSTM(x, w, r, b, h0, c0, None, direction, activations)
    return y.reshape(y.shape[0], *h.shape[1:]), [h.squeeze(0), c.squeeze(0)]


def _bias(cell: Any) -> Tensor | None:
    """Return a cell's biases [1, 2 * gates * units], zeros where it has none of the recurrence."""
    if cell.bias is None:
        return None
    bias = torch.as_tensor(cell.bias.value).reshape(1, -1)
    whole = 2 * cell.kernel.shape[1]
    return bias if bias.shape[1] == whole else torch.cat([bias, torch.zeros_like(bias)], 1)


def _gates(weights: Tensor, parts: int = 4) -> Tensor:
    """Return weights or biases of gates i, f, c, o in ONNX's order i, o, f, c."""
    size = weights.shape[1] // parts
    order = [n + gate for n in range(0, parts, 4) for gate in (0, 3, 1, 2)]
    return torch.cat([weights[:, n * size : (n + 1) * size] for n in order], 1)


_RUNS: dict[str, _Run] = {"SimpleRNNCell": _run_rnn, "GRUCell": _run_gru, "LSTMCell": _run_lstm}
