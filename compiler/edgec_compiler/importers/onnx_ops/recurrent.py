"""RNN, GRU and LSTM: each one composite operator."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from edgec_compiler.composites import recurrent
from edgec_compiler.importers.onnx_node import Node

_NAMES = {name.lower(): name for name in recurrent.ACTIVATIONS}


def _activations(node: Node, default: tuple[str, ...]) -> list[str]:
    """Return the activations of every direction, spelled as ONNX does, or refuse `node`."""
    both = node.attr("direction", "forward") == "bidirectional"
    given = [name.lower() for name in node.attr("activations") or []]
    names = given or [name.lower() for name in default] * (2 if both else 1)
    if node.attr("clip") is not None or any(name not in _NAMES for name in names):
        node.refuse(f"activations {names} or clipping")
    return [_NAMES[name] for name in names]


def _check_lengths(node: Node, x: Tensor) -> None:
    """Refuse sequences of different lengths; a constant full length is fine."""
    if node.has(4):
        steps = x.shape[1 if node.attr("layout", 0) else 0]
        if any(length != steps for length in node.ints(4, "sequence_lens")):
            node.refuse("sequences shorter than the input are not supported")


def _run(
    node: Node, call: Any, default: tuple[str, ...], given: list[Tensor | None], *extra: Any
) -> tuple[Tensor, ...]:
    """Run `call`, which wants time before batch, in the layout that the node asks for.

    `given` holds x, weights and bias first, then first states, then what has no batch.
    """
    x = given[0]
    assert x is not None  # noqa: S101  the first input is no optional one
    _check_lengths(node, x)
    batch_first = bool(node.attr("layout", 0))
    states = slice(4, 6 if call is recurrent.LSTM else 5)
    if batch_first:
        given[0] = x.transpose(0, 1)
        given[states] = [None if one is None else one.transpose(0, 1) for one in given[states]]
    direction = node.attr("direction", "forward")
    y, *last = call(*given, direction, _activations(node, default), *extra)
    if batch_first:
        return y.permute(2, 0, 1, 3), *(one.transpose(0, 1) for one in last)
    return y, *last


def _inputs(given: tuple[Tensor | None, ...], count: int) -> list[Tensor | None]:
    """Return `count` inputs without the lengths, the fifth; None for those left out."""
    padded = [*given, *[None] * 8]
    return [*padded[:4], *padded[5 : count + 1]]


def _rnn(node: Node, *given: Tensor | None) -> tuple[Tensor, ...]:
    return _run(node, recurrent.RNN, ("Tanh",), _inputs(given, 5))


def _gru(node: Node, *given: Tensor | None) -> tuple[Tensor, ...]:
    late = bool(node.attr("linear_before_reset", 0))
    return _run(node, recurrent.GRU, ("Sigmoid", "Tanh"), _inputs(given, 5), late)


def _lstm(node: Node, *given: Tensor | None) -> tuple[Tensor, ...]:
    if node.attr("input_forget", 0):
        node.refuse("coupled input and forget gates")
    return _run(node, recurrent.LSTM, ("Sigmoid", "Tanh", "Tanh"), _inputs(given, 7))


OPS: dict[str, Callable[..., Any]] = {"GRU": _gru, "LSTM": _lstm, "RNN": _rnn}
