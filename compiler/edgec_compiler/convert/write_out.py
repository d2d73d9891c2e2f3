"""Writes operators of a float TFLite model out in simpler ones, for targets that lack them.

1. HARD_SWISH, x * relu6(x + 3) / 6: an ADD with a RELU6 in it, and two MULs. The division comes
   first of these, since it leaves 8-bit values as they are and only changes their scale.
2. GELU, by its tanh form, 0.5 x (1 + tanh(u)) = x * sigmoid(2u) with
   u = sqrt(2 / pi) (x + 0.044715 x^3): MULs, an ADD and a LOGISTIC. It is within 5e-4 of the exact
   one, which needs an erf that TFLite does not have (Hendrycks, Gimpel 2016, arXiv:1606.08415).
3. PRELU and LEAKY_RELU, relu(x) - alpha * relu(-x); ABS, which has an alpha of -1; NEG, x * -1;
   RELU6 on its own, which is one of x * 1; SQUARE, x * x; MINIMUM, -max(-x, -y). Quantisers do not
   take these, so targets that execute integers only have them written out even where they know
   them.

Left alone: operators that the target has, those whose parts it lacks too, and integer tensors.
Quantisers come afterwards: each part gets a range of its own.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_hardware_profiles import Profile

_SLOPE = 2 * math.sqrt(2 / math.pi)
_NO_ACTIVATION = schema.ActivationFunctionType.NONE
_RELU = schema.ActivationFunctionType.RELU
_RELU6 = schema.ActivationFunctionType.RELU6


def lacking(profile: Profile) -> tuple[str, ...]:
    """Return the operators that a target wants written out."""
    if profile.support is None:
        return ()
    takes = {name for name, one in profile.support.operators.items() if one.supported}
    has = takes - _FLOAT if profile.full_integer else takes | _FLOAT
    return tuple(op for op, (_, parts) in _WAYS.items() if op not in has and takes >= {*parts})


def write_out(payload: bytes, ops: Collection[str]) -> tuple[bytes, dict[str, int]]:
    """Return the model without the operators `ops`, and how many of each there were.

    Args:
        payload: a float TFLite model whose tensors have unique names.
        ops: of those that `lacking` returns.
    """
    model = tflite.parse(payload, "the float model")
    counts = dict.fromkeys(sorted(ops), 0)
    for graph in model.subgraphs:
        kept: list[Any] = []
        for operator in graph.operators:
            op = tflite.op_name(model, operator)
            made = graph.tensors[operator.outputs[0]] if len(operator.outputs) else None
            if op not in counts or made is None or tflite.type_name(made) != "float32":
                kept.append(operator)
                continue
            counts[op] += 1
            parts = _Parts(model, graph, made)
            _WAYS[op][0](parts, operator)
            kept += parts.operators
        graph.operators = kept
    counts = {op: count for op, count in counts.items() if count}
    return (tflite.serialise(model) if counts else payload), counts


class _Parts:
    """The operators that stand for one, in order. Tensors are numbers; results are like `made`."""

    def __init__(self, model: tflite.Flatbuffer, graph: Any, made: Any) -> None:
        self._model, self._graph, self._made = model, graph, made
        self.operators: list[Any] = []

    def add(self, x: int, y: int, into: int | None = None, activation: int = _NO_ACTIVATION) -> int:
        """Return the tensor of x + y, which is `into` if that is given."""
        options = schema.AddOptionsT()
        options.fusedActivationFunction = activation
        return self._operator(
            schema.BuiltinOperator.ADD, schema.BuiltinOptions.AddOptions, options, (x, y), into
        )

    def mul(self, x: int, y: int, into: int | None = None, activation: int = _NO_ACTIVATION) -> int:
        """Return the tensor of x * y, which is `into` if that is given."""
        options, kind = schema.MulOptionsT(), schema.BuiltinOptions.MulOptions
        options.fusedActivationFunction = activation
        return self._operator(schema.BuiltinOperator.MUL, kind, options, (x, y), into)

    def maximum(self, x: int, y: int) -> int:
        """Return the tensor of max(x, y)."""
        options, kind = schema.MaximumMinimumOptionsT(), schema.BuiltinOptions.MaximumMinimumOptions
        return self._operator(schema.BuiltinOperator.MAXIMUM, kind, options, (x, y))

    def relu(self, x: int) -> int:
        """Return the tensor of max(x, 0)."""
        return self._operator(schema.BuiltinOperator.RELU, schema.BuiltinOptions.NONE, None, (x,))

    def logistic(self, x: int) -> int:
        """Return the tensor of 1 / (1 + exp(-x))."""
        return self._operator(
            schema.BuiltinOperator.LOGISTIC, schema.BuiltinOptions.NONE, None, (x,)
        )

    def opposite(self, x: int) -> int:
        """Return the tensor of -x, a constant if x is one."""
        tensor = self._graph.tensors[x]
        data = self._model.buffers[tensor.buffer].data
        if data is None or not len(data):
            return self._operator(
                schema.BuiltinOperator.MUL,
                schema.BuiltinOptions.MulOptions,
                schema.MulOptionsT(),
                (x, self.number(-1)),
                self._tensor(tensor.shape, 0),
            )
        return self._constant(-np.frombuffer(bytes(data), np.float32), tensor.shape)

    def number(self, value: float) -> int:
        """Return a constant of one number."""
        return self._constant(np.array([value], np.float32), np.array([1], np.int32))

    def _constant(self, values: Any, shape: Any) -> int:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        return self._tensor(shape, len(self._model.buffers) - 1)

    def _operator(
        self,
        builtin: int,
        kind: int,
        options: Any,
        inputs: tuple[int, ...],
        into: int | None = None,
    ) -> int:
        made = self._tensor(self._made.shape, 0) if into is None else into
        operator = schema.OperatorT()
        operator.opcodeIndex = tflite.operator_code(self._model, builtin, 1)
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array([made], np.int32)
        self.operators.append(operator)
        return made

    def _tensor(self, shape: Any, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name = f"t{len(self._graph.tensors)}_written_out".encode()
        tensor.shape, tensor.type, tensor.buffer = shape, schema.TensorType.FLOAT32, buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


def _ends(operator: Any) -> tuple[int, int]:
    """Return the tensors that an activation function reads and makes."""
    return int(operator.inputs[0]), int(operator.outputs[0])


def _hard_swish(parts: _Parts, operator: Any) -> None:
    x, y = _ends(operator)
    gate = parts.add(x, parts.number(3), activation=_RELU6)
    parts.mul(x, parts.mul(gate, parts.number(1 / 6)), y)


def _gelu(parts: _Parts, operator: Any) -> None:
    x, y = _ends(operator)
    square = parts.mul(parts.mul(x, x), parts.number(_SLOPE * 0.044715))
    slope = parts.add(square, parts.number(_SLOPE))
    parts.mul(x, parts.logistic(parts.mul(x, slope)), y)


def _prelu(parts: _Parts, operator: Any) -> None:
    _bent(parts, operator, parts.opposite(int(operator.inputs[1])))


def _leaky_relu(parts: _Parts, operator: Any) -> None:
    _bent(parts, operator, parts.number(-operator.builtinOptions.alpha))


def _abs(parts: _Parts, operator: Any) -> None:
    _bent(parts, operator, parts.number(1))


def _bent(parts: _Parts, operator: Any, slope: int) -> None:
    """Write relu(x) + slope * relu(-x)."""
    x, y = _ends(operator)
    below = parts.mul(x, parts.number(-1), activation=_RELU)
    parts.add(parts.relu(x), parts.mul(below, slope), y)


def _minimum(parts: _Parts, operator: Any) -> None:
    x, y = (parts.opposite(int(index)) for index in operator.inputs)
    parts.mul(parts.maximum(x, y), parts.number(-1), int(operator.outputs[0]))


def _square(parts: _Parts, operator: Any) -> None:
    x, y = _ends(operator)
    parts.mul(x, x, y)


def _neg(parts: _Parts, operator: Any) -> None:
    x, y = _ends(operator)
    parts.mul(x, parts.number(-1), y)


def _relu6(parts: _Parts, operator: Any) -> None:
    x, y = _ends(operator)
    parts.mul(x, parts.number(1), y, _RELU6)


# operator -> how it is written out, and in which operators
_WAYS: dict[str, tuple[Callable[[_Parts, Any], None], tuple[str, ...]]] = {
    "ABS": (_abs, ("ADD", "MUL", "RELU")),
    "GELU": (_gelu, ("ADD", "LOGISTIC", "MUL")),
    "HARD_SWISH": (_hard_swish, ("ADD", "MUL")),
    "LEAKY_RELU": (_leaky_relu, ("ADD", "MUL", "RELU")),
    "MINIMUM": (_minimum, ("MAXIMUM", "MUL")),
    "NEG": (_neg, ("MUL",)),
    "PRELU": (_prelu, ("ADD", "MUL", "RELU")),
    "RELU6": (_relu6, ("MUL",)),
    "SQUARE": (_square, ("MUL",)),
}
# What quantisers leave in float.
_FLOAT = {"ABS", "LEAKY_RELU", "MINIMUM", "NEG", "PRELU", "RELU6", "SQUARE"}
