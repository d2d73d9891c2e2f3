"""Operators of a float TFLite model that its converter wrote out, as the one that kernels know.

ELU                x where x > 0, exp(x) - 1 elsewhere.
L2_NORMALIZATION   x * rsqrt(max(sum(x^2), c)) over the last axis, or with c added or left out; c
                   is below the square of the 1e-6 that the operator has. `passes/curves.py` brings
                   norms into this form.

Left alone: other thresholds, and parts that something else reads, but x itself.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite

_LEAST = 1e-12  # the square of what L2_NORMALIZATION takes for the least norm


def fused(payload: bytes) -> bytes:
    """Return the model with the operators above; the same bytes if there is nothing to do.

    Args:
        payload: a float TFLite model.
    """
    model = tflite.parse(payload, "the float model")
    graph = model.subgraphs[0]
    seen = _Graph(model)
    changed = False
    for operator in graph.operators:
        for match, write in _WAYS:
            x = match(seen, operator)
            if x is not None:
                write(model, operator)
                operator.inputs = np.array([x], np.int32)
                changed = True
                break
    if not changed:
        return payload
    graph.operators = tflite.live_operators(graph)
    return tflite.serialise(model)


class _Graph:
    """What makes and what reads every tensor."""

    def __init__(self, model: tflite.Flatbuffer) -> None:
        self._model, self.graph = model, model.subgraphs[0]
        self._makers: dict[int, Any] = {}
        for operator in self.graph.operators:
            self._makers |= {index: operator for index in tflite.given(operator.outputs)}

    def op(self, operator: Any) -> str:
        """Return an operator's name."""
        return tflite.op_name(self._model, operator)

    def maker(self, index: int, *ops: str) -> list[int] | None:
        """Return what the operator reads that makes a tensor, if it is one of `ops`, bare."""
        operator = self._makers.get(int(index))
        if operator is None or self.op(operator) not in ops:
            return None
        activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        return None if activation else [int(i) for i in operator.inputs]

    def number(self, index: int) -> float | None:
        """Return the number that a constant of one element is."""
        tensor = self.graph.tensors[index]
        if tflite.type_name(tensor) != "float32" or not tflite.is_constant(self._model, tensor):
            return None
        values = np.frombuffer(bytes(self._model.buffers[tensor.buffer].data), "<f4")
        return float(values[0]) if values.size == 1 else None

    def integers(self, index: int) -> list[int]:
        """Return a constant of 32-bit integers, empty if it is none."""
        tensor = self.graph.tensors[index]
        if tflite.type_name(tensor) != "int32" or not tflite.is_constant(self._model, tensor):
            return []
        data = bytes(self._model.buffers[tensor.buffer].data)
        return [int(value) for value in np.frombuffer(data, "<i4")]

    def rank(self, index: int) -> int:
        """Return how many axes a tensor has."""
        shape = self.graph.tensors[index].shape
        return 0 if shape is None else len(shape)


def _elu(seen: _Graph, operator: Any) -> int | None:
    """Return x if `operator` picks x above 0 and exp(x) - 1 elsewhere."""
    if seen.op(operator) not in ("SELECT", "SELECT_V2"):
        return None
    asked, x, below = (int(index) for index in operator.inputs)
    question = seen.maker(asked, "GREATER", "GREATER_EQUAL")
    less = seen.maker(below, "SUB")
    if question is None or less is None:
        return None
    power = seen.maker(less[0], "EXP")
    right = question[0] == x and seen.number(question[1]) == 0 and seen.number(less[1]) == 1
    return x if right and power == [x] else None


def _write_elu(model: tflite.Flatbuffer, operator: Any) -> None:
    operator.opcodeIndex = tflite.operator_code(model, schema.BuiltinOperator.ELU, 1)
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.NONE, None


def _norm(seen: _Graph, operator: Any) -> int | None:
    """Return x if `operator` makes x / |x| over the last axis."""
    if seen.op(operator) != "MUL" or operator.builtinOptions.fusedActivationFunction:
        return None
    x, scale = (int(index) for index in operator.inputs)
    parts = seen.maker(scale, "RSQRT")
    if parts is None:
        return None
    inner = _unshaped(seen, parts[0])
    limited = seen.maker(inner, "MAXIMUM", "ADD")  # a constant is the second that these read
    least = 0.0 if limited is None else seen.number(limited[1])
    total = seen.maker(inner if limited is None else _unshaped(seen, limited[0]), "SUM")
    square = None if total is None else seen.maker(total[0], "MUL")
    if total is None or square != [x, x] or least is None or least > _LEAST:
        return None
    axes = [axis % seen.rank(x) for axis in seen.integers(total[1])]
    return x if axes == [seen.rank(x) - 1] and seen.rank(scale) == seen.rank(x) else None


def _unshaped(seen: _Graph, index: int) -> int:
    inner = seen.maker(index, "RESHAPE")
    return index if inner is None else inner[0]


def _write_norm(model: tflite.Flatbuffer, operator: Any) -> None:
    code = schema.BuiltinOperator.L2_NORMALIZATION
    operator.opcodeIndex = tflite.operator_code(model, code, 1)
    operator.builtinOptionsType = schema.BuiltinOptions.L2NormOptions
    operator.builtinOptions = schema.L2NormOptionsT()


_Match = Callable[[_Graph, Any], int | None]
_WAYS: tuple[tuple[_Match, Callable[[tflite.Flatbuffer, Any], None]], ...] = (
    (_elu, _write_elu),
    (_norm, _write_norm),
)
