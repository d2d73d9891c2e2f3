"""RNN, GRU and LSTM, unrolled over their fixed number of time steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgec_compiler.importers.onnx_node import Node

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
}
Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # input, hidden, cell


def _activations(node: Node, direction: int, default: tuple[str, ...]) -> list[Any]:
    given = [name.lower() for name in node.attr("activations") or []]
    names = given[direction * len(default) : (direction + 1) * len(default)] or list(default)
    if node.attr("clip") is not None or any(name not in _ACTIVATIONS for name in names):
        node.refuse(f"activations {names} or clipping")
    return [_ACTIVATIONS[name] for name in names]


def _scan(
    x: Tensor, hidden: Tensor, cell: Tensor, step: Step, backward: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ([time, batch, hidden], last hidden, last cell)."""
    outputs = []
    order = range(x.shape[0] - 1, -1, -1) if backward else range(x.shape[0])
    for t in order:
        hidden, cell = step(x[t], hidden, cell)
        outputs.append(hidden)
    return torch.stack(outputs[::-1] if backward else outputs), hidden, cell


def _run(
    node: Node,
    x: Tensor,
    weights: Tensor,
    recurrence: Tensor,
    bias: Tensor | None,
    initial: tuple[Tensor | None, Tensor | None],
    make_step: Callable[[int, Tensor, Tensor, Tensor, Tensor], Step],
) -> tuple[Tensor, Tensor, Tensor]:
    """Run every direction; return Y, Y_h and Y_c in the layout that the node asks for."""
    batch_first = bool(node.attr("layout", 0))
    x = x.transpose(0, 1) if batch_first else x
    directions, size = weights.shape[0], recurrence.shape[-1]
    states = []
    for state in initial:
        if state is None:
            state = torch.zeros(directions, x.shape[1], size, dtype=x.dtype)
        elif batch_first:
            state = state.transpose(0, 1)
        states.append(state)
    runs = []
    for d in range(directions):
        wide = weights.shape[1]
        b = torch.zeros(2 * wide, dtype=x.dtype) if bias is None else bias[d]
        step = make_step(d, weights[d], recurrence[d], b[:wide], b[wide:])
        backward = d == 1 or node.attr("direction", "forward") == "reverse"
        runs.append(_scan(x, states[0][d], states[1][d], step, backward))
    y, h, c = (torch.stack([run[i] for run in runs], 1 if i == 0 else 0) for i in range(3))
    if batch_first:
        return y.permute(2, 0, 1, 3), h.transpose(0, 1), c.transpose(0, 1)
    return y, h, c


def _check_lengths(node: Node, x: Tensor) -> None:
    """Refuse sequences of different lengths; a constant full length is fine."""
    if node.has(4):
        steps = x.shape[1 if node.attr("layout", 0) else 0]
        if any(length != steps for length in node.ints(4, "sequence_lens")):
            node.refuse("sequences shorter than the input are not supported")


def _rnn(node: Node, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    bias, _, h0 = (*rest, None, None, None)[:3]
    _check_lengths(node, x)

    def make(d: int, w: Tensor, r: Tensor, bw: Tensor, br: Tensor) -> Step:
        (f,) = _activations(node, d, ("tanh",))
        return lambda x, h, c: (f(functional.linear(x, w, bw) + functional.linear(h, r, br)), c)

    return _run(node, x, w, r, bias, (h0, None), make)[:2]


def _gru(node: Node, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    bias, _, h0 = (*rest, None, None, None)[:3]
    _check_lengths(node, x)
    late = bool(node.attr("linear_before_reset", 0))

    def make(d: int, w: Tensor, r: Tensor, bw: Tensor, br: Tensor) -> Step:
        f, g = _activations(node, d, ("sigmoid", "tanh"))
        size = r.shape[1]

        def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            given = functional.linear(x, w, bw)
            gates = functional.linear(h, r[: 2 * size], br[: 2 * size])
            update = f(given[:, :size] + gates[:, :size])
            reset = f(given[:, size : 2 * size] + gates[:, size:])
            if late:
                past = reset * functional.linear(h, r[2 * size :], br[2 * size :])
            else:
                past = functional.linear(reset * h, r[2 * size :], br[2 * size :])
            new = g(given[:, 2 * size :] + past)
            return (1 - update) * new + update * h, c

        return step

    return _run(node, x, w, r, bias, (h0, None), make)[:2]


def _lstm(node: Node, x: Tensor, w: Tensor, r: Tensor, *rest: Tensor | None) -> tuple[Tensor, ...]:
    bias, _, h0, c0, peepholes = (*rest, None, None, None, None, None)[:5]
    _check_lengths(node, x)
    if node.attr("input_forget", 0):
        node.refuse("coupled input and forget gates")

    def make(d: int, w: Tensor, r: Tensor, bw: Tensor, br: Tensor) -> Step:
        f, g, out = _activations(node, d, ("sigmoid", "tanh", "tanh"))
        if peepholes is None:
            peep = [torch.zeros((), dtype=w.dtype)] * 3
        else:
            peep = list(peepholes[d].chunk(3))

        def step(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            gates = functional.linear(x, w, bw) + functional.linear(h, r, br)
            i, o, forget, new = gates.chunk(4, 1)
            c_new = f(forget + peep[2] * c) * c + f(i + peep[0] * c) * g(new)
            return f(o + peep[1] * c_new) * out(c_new), c_new

        return step

    return _run(node, x, w, r, bias, (h0, c0), make)


OPS: dict[str, Callable[..., Any]] = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}
