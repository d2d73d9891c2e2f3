"""GRU, LSTM and RNN as ONNX defines them, in its own layout of weights.

x [time, batch, input], w [directions, gates * hidden, input], r [directions, gates * hidden,
hidden], b [directions, 2 * gates * hidden] or None, first states [directions, batch, hidden] or
None. Results: Y [time, directions, batch, hidden], then the last states. `activations` name those
of every direction; `direction` is "forward", "reverse" or "bidirectional".

Source: onnx.ai/onnx/operators, GRU, LSTM, RNN (time-major: layout 0).
"""

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18
from torch import Tensor
from torch.nn import functional

from edgec_compiler.composites.library import composite

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
}
# What the input gives to the gates, hidden and cell -> the next hidden and cell.
_Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
# Activations, recurrent weights and biases -> a step.
_MakeStep = Callable[[list[Callable[[Tensor], Tensor]], Tensor, Tensor], _Step]


def _scan(
    given: Tensor, hidden: Tensor, cell: Tensor, step: _Step, *, backward: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ([time, batch, hidden], last hidden, last cell) for what [time, batch, input] gives.

    Steps are rows of one matrix, so that TFLite slices and does not reshape each.
    """
    batch, rows, outputs = given.shape[1], given.flatten(0, 1), []
    steps = range(given.shape[0])
    for t in reversed(steps) if backward else steps:
        hidden, cell = step(rows[t * batch : (t + 1) * batch], hidden, cell)
        outputs.append(hidden)
    return torch.stack(outputs[::-1] if backward else outputs), hidden, cell


def _run(
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None],
    initial: tuple[Tensor | None, Tensor | None],
    direction: str,
    activations: list[str],
    make_step: Callable[[int], _MakeStep],
) -> tuple[Tensor, Tensor, Tensor]:
    """Run every direction; return Y, Y_h and Y_c. The input is multiplied for all steps at once."""
    w, r, bias = weights
    directions, wide, size = w.shape[0], w.shape[1], r.shape[-1]
    zeros = torch.zeros(directions, x.shape[1], size, dtype=x.dtype)
    hidden, cell = (zeros if state is None else state for state in initial)
    count = len(activations) // directions
    runs = []
    for d in range(directions):
        b = torch.zeros(2 * wide, dtype=x.dtype) if bias is None else bias[d]
        own = [ACTIVATIONS[name] for name in activations[d * count : (d + 1) * count]]
        given = functional.linear(x, w[d], b[:wide])
        backward = d == 1 or direction == "reverse"
        step = make_step(d)(own, r[d], b[wide:])
        runs.append(_scan(given, hidden[d], cell[d], step, backward=backward))
    y, h, c = (torch.stack([run[i] for run in runs], 1 if i == 0 else 0) for i in range(3))
    return y, h, c


def _rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    h0: Tensor | None,
    direction: str,
    activations: list[str],
) -> tuple[Tensor, Tensor]:
    def make(act: Any, r: Tensor, b: Tensor) -> _Step:
        (f,) = act
        return lambda given, h, c: (f(given + functional.linear(h, r, b)), c)

    return _run(x, (w, r, b), (h0, None), direction, activations, lambda _: make)[:2]


def _gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    h0: Tensor | None,
    direction: str,
    activations: list[str],
    late: bool,
) -> tuple[Tensor, Tensor]:
    """`late`: the reset gate scales what the recurrence made, not the state (as in torch)."""

    def make(act: Any, r: Tensor, b: Tensor) -> _Step:
        f, g = act
        size = 2 * r.shape[1]  # of both gates

        def step(given: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            past = functional.linear(h, r if late else r[:size], b if late else b[:size])
            update, reset = f(given[:, :size] + past[:, :size]).chunk(2, 1)
            if late:
                old = reset * past[:, size:]
            else:
                old = functional.linear(reset * h, r[size:], b[size:])
            new = g(given[:, size:] + old)
            return new + update * (h - new), c

        return step

    return _run(x, (w, r, b), (h0, None), direction, activations, lambda _: make)[:2]


def _lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    peepholes: Tensor | None,
    direction: str,
    activations: list[str],
) -> tuple[Tensor, Tensor, Tensor]:
    """`peepholes` [directions, 3 * hidden]: weights of the cell in its gates i, o, f."""

    def make_of(d: int) -> _MakeStep:
        def make(act: Any, r: Tensor, b: Tensor) -> _Step:
            f, g, out = act
            size = r.shape[1]

            def step(given: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
                gates = given + functional.linear(h, r, b)
                i, o, forget = f(gates[:, : 3 * size]).chunk(3, 1)
                c_new = forget * c + i * g(gates[:, 3 * size :])
                return o * out(c_new), c_new

            def peeping(given: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
                peep = list(peepholes[d].chunk(3)) if peepholes is not None else []
                i, o, forget, new = (given + functional.linear(h, r, b)).chunk(4, 1)
                c_new = f(forget + peep[2] * c) * c + f(i + peep[0] * c) * g(new)
                return f(o + peep[1] * c_new) * out(c_new), c_new

            return step if peepholes is None else peeping

        return make

    return _run(x, (w, r, b), (h0, c0), direction, activations, make_of)


_GIVEN = "Tensor x, Tensor w, Tensor r, Tensor? b, Tensor? h0"
_CHOSEN = "str direction, str[] activations"
RNN = composite(f"rnn({_GIVEN}, {_CHOSEN}) -> (Tensor, Tensor)", _rnn)
GRU = composite(f"gru({_GIVEN}, {_CHOSEN}, bool late) -> (Tensor, Tensor)", _gru)
LSTM = composite(
    f"lstm({_GIVEN}, Tensor? c0, Tensor? p, {_CHOSEN}) -> (Tensor, Tensor, Tensor)", _lstm
)


def write_rnn(x: Any, w: Any, r: Any, b: Any, h0: Any, direction: str, activations: Any) -> Any:
    """Return the ONNX node of an `RNN`."""
    return opset18.RNN(x, w, r, b, None, h0, **_attributes(r, direction, activations))


def write_gru(
    x: Any, w: Any, r: Any, b: Any, h0: Any, direction: str, activations: Any, late: bool
) -> Any:
    """Return the ONNX node of a `GRU`."""
    chosen = _attributes(r, direction, activations)
    return opset18.GRU(x, w, r, b, None, h0, linear_before_reset=int(late), **chosen)


def write_lstm(
    x: Any, w: Any, r: Any, b: Any, h0: Any, c0: Any, p: Any, direction: str, activations: Any
) -> Any:
    """Return the ONNX node of an `LSTM`."""
    return opset18.LSTM(x, w, r, b, None, h0, c0, p, **_attributes(r, direction, activations))


def _attributes(r: Any, direction: str, activations: Any) -> dict[str, Any]:
    return {
        "hidden_size": int(r.shape[-1]),
        "direction": direction,
        "activations": list(activations),
    }
