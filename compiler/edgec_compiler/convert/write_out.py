"""Writes operators of a float TFLite model out in simpler ones, for targets that lack them.

1. HARD_SWISH, x * relu6(x + 3) / 6: an ADD with a RELU6 in it, and two MULs. The division comes
   first of these, since it leaves 8-bit values as they are and only changes their scale.
2. GELU, by its tanh form, 0.5 x (1 + tanh(u)) = x * sigmoid(2u) with
   u = sqrt(2 / pi) (x + 0.044715 x^3): MULs, an ADD and a LOGISTIC. It is within 5e-4 of the exact
   one, which needs an erf that TFLite does not have (Hendrycks, Gimpel 2016, arXiv:1606.08415).
3. PRELU and LEAKY_RELU, relu(x) - alpha * relu(-x); ABS, which has an alpha of -1; NEG, x * -1;
   RELU6 on its own, which is one of x * 1; SQUARE, x * x; MINIMUM, -max(-x, -y); RELU_0_TO_1,
   relu6(6x) / 6; RELU_N1_TO_1, relu6(3 (x + 1)) / 3 - 1. Quantisers do not take these, so targets
   that execute integers only have them written out, most of them even where they know them.
4. ELU, relu(x) - 2u / (1 + u) with u = tanh(relu(-x) / 2), since exp(z) - 1 is 2t / (1 - t) with
   t = tanh(z / 2); LOG of a sigmoid of what is not below zero, log(1 - s) with s = sigmoid(-x) up
   to 1/2; DIV by 1 + w with w the square of a sigmoid. What is left of them is a polynomial.
5. EMBEDDING_LOOKUP of a constant table, a GATHER, which quantisers take.
6. REVERSE_V2 of one axis, its places joined in the other order; DEPTH_TO_SPACE, a transposed
   convolution with weights of 0 and 1.
7. FULLY_CONNECTED of several rows, for a target that takes it of one row only: a CONV_2D of one
   pixel over an image whose width is the rows.

Left alone: operators that the target has, those whose parts it lacks too, and integer tensors.
Quantisers come afterwards: each part gets a range of its own.
"""

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgec_compiler import tflite
from edgec_compiler.convert.parts import Parts
from edgec_compiler.convert.reverses import reversed_axis
from edgec_hardware_profiles import Profile

_SLOPE = 2 * math.sqrt(2 / math.pi)
_RELU = schema.ActivationFunctionType.RELU
_RELU6 = schema.ActivationFunctionType.RELU6
_MOST_SLICES, _MOST_CHANNELS = 256, 256  # above, it costs more than it saves
# Factors of polynomials with the least greatest error over the whole range of what they read:
_EXPONENTIAL = (1.92453813, -1.42145356, 0.50000022)  # u times it is 2u / (1 + u) within 3.1e-3
_RECIPROCAL = (0.99873737, -0.95079395, 0.68629296, -0.23549901)  # 1 / (1 + w) within 1.3e-3
_LOGARITHM = (-1.01778318, -0.312625245, -0.844791108)  # s times it is log(1 - s) within 5.1e-4


def lacking(profile: Profile) -> tuple[str, ...]:
    """Return the operators that a target wants written out."""
    if profile.support is None:
        return ()
    takes = {name for name, one in profile.support.operators.items() if one.supported}
    has = takes - _FLOAT if profile.full_integer else takes | _FLOAT
    if _takes_single_rows(profile):
        has = has - {"FULLY_CONNECTED"}
    return tuple(op for op, (_, parts) in _WAYS.items() if op not in has and takes >= {*parts})


def _takes_single_rows(profile: Profile) -> bool:
    """Return whether a dense layer must make one row, by the profile's table."""
    known = None if profile.support is None else profile.support.operators.get("FULLY_CONNECTED")
    return known is not None and any(
        one.fact == "outer_out" and one.max == 1 for one in known.require
    )


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
            parts = Parts(model, graph, made)
            _WAYS[op][0](parts, operator)
            counts[op] += bool(parts.operators)
            kept += parts.operators or [operator]
        graph.operators = kept
        graph.operators = tflite.live_operators(graph)  # a pattern's other parts are read no more
    counts = {op: count for op, count in counts.items() if count}
    return (tflite.serialise(model) if counts else payload), counts


def _ends(operator: Any) -> tuple[int, int]:
    """Return the tensors that an activation function reads and makes."""
    return int(operator.inputs[0]), int(operator.outputs[0])


def _hard_swish(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    gate = parts.add(x, parts.number(3), activation=_RELU6)
    parts.mul(x, parts.mul(gate, parts.number(1 / 6)), y)


def _gelu(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    square = parts.mul(parts.mul(x, x), parts.number(_SLOPE * 0.044715))
    slope = parts.add(square, parts.number(_SLOPE))
    parts.mul(x, parts.logistic(parts.mul(x, slope)), y)


def _prelu(parts: Parts, operator: Any) -> None:
    _bent(parts, operator, parts.opposite(int(operator.inputs[1])))


def _leaky_relu(parts: Parts, operator: Any) -> None:
    _bent(parts, operator, parts.number(-operator.builtinOptions.alpha))


def _abs(parts: Parts, operator: Any) -> None:
    _bent(parts, operator, parts.number(1))


def _bent(parts: Parts, operator: Any, slope: int) -> None:
    """Write relu(x) + slope * relu(-x)."""
    x, y = _ends(operator)
    below = parts.mul(x, parts.number(-1), activation=_RELU)
    parts.add(parts.relu(x), parts.mul(below, slope), y)


def _minimum(parts: Parts, operator: Any) -> None:
    x, y = (parts.opposite(int(index)) for index in operator.inputs)
    parts.mul(parts.maximum(x, y), parts.number(-1), int(operator.outputs[0]))


def _square(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    parts.mul(x, x, y)


def _neg(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    parts.mul(x, parts.number(-1), y)


def _relu6(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    parts.mul(x, parts.number(1), y, _RELU6)


def _relu_0_to_1(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    parts.mul(parts.mul(x, parts.number(6), activation=_RELU6), parts.number(1 / 6), y)


def _relu_n1_to_1(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    bounded = parts.mul(parts.add(x, parts.number(1)), parts.number(3), activation=_RELU6)
    parts.add(parts.mul(bounded, parts.number(1 / 3)), parts.number(-1), y)


def _elu(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    u = parts.tanh(parts.mul(x, parts.number(-0.5), activation=_RELU))
    parts.sub(parts.relu(x), parts.mul(u, parts.polynomial(u, _EXPONENTIAL)), y)


def _log(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    gate = parts.maker(x, "LOGISTIC")
    size = None if gate is None else parts.maker(gate[0], "ABS")
    if gate is not None and size is not None:
        s = parts.logistic(parts.opposite(gate[0]))
        parts.mul(s, parts.polynomial(s, _LOGARITHM), y)


def _div(parts: Parts, operator: Any) -> None:
    x, below = (int(index) for index in operator.inputs)
    total = parts.maker(below, "ADD")
    if total is None or parts.value(total[1]) != 1:
        return
    square = parts.maker(total[0], "MUL")
    if square is not None and square[0] == square[1] and parts.maker(square[0], "LOGISTIC"):
        parts.mul(x, parts.polynomial(total[0], _RECIPROCAL), int(operator.outputs[0]))


def _reverse(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    known = reversed_axis(parts.model, operator)
    if known is None or known[1] > _MOST_SLICES:
        return
    axis, length = known
    shape = parts.shape(x)
    size = [*shape[:axis], 1, *shape[axis + 1 :]]
    starts = [[place if i == axis else 0 for i in range(len(shape))] for place in range(length)]
    parts.concatenation([parts.slice(x, one, size) for one in reversed(starts)], axis, y)


def _embedding_lookup(parts: Parts, operator: Any) -> None:
    places, table = map(int, operator.inputs)
    parts.gather(table, places, into=int(operator.outputs[0]))


def _fully_connected(parts: Parts, operator: Any) -> None:
    x, weights, *bias = map(int, operator.inputs)
    y, options = int(operator.outputs[0]), operator.builtinOptions
    *outer, outputs = parts.shape(y)
    rows, inputs = math.prod(outer), parts.shape(weights)[-1]
    if rows == 1 or not parts.is_constant(weights):
        return
    image = parts.reshape(x, [1, 1, rows, inputs])
    kernel = parts.viewed(weights, [outputs, 1, 1, inputs])
    bias = [index for index in bias if index >= 0] or [parts.zeros(outputs)]
    activation = options.fusedActivationFunction
    made = parts.convolution(image, kernel, bias[0], [1, 1, rows, outputs], activation)
    parts.reshape(made, parts.shape(y), into=y)


def _depth_to_space(parts: Parts, operator: Any) -> None:
    x, y = _ends(operator)
    block, wide = int(operator.builtinOptions.blockSize), parts.shape(x)[-1]
    if wide <= _MOST_CHANNELS:
        weights = np.eye(wide).reshape(block, block, wide // block**2, wide)
        parts.transposed_convolution(x, weights.transpose(2, 0, 1, 3), block, y)


# operator -> how it is written out, and in which operators
_WAYS: dict[str, tuple[Callable[[Parts, Any], None], tuple[str, ...]]] = {
    "ABS": (_abs, ("ADD", "MUL", "RELU")),
    "DEPTH_TO_SPACE": (_depth_to_space, ("TRANSPOSE_CONV",)),
    "DIV": (_div, ("ADD", "MUL")),
    "ELU": (_elu, ("ADD", "MUL", "RELU", "SUB", "TANH")),
    "EMBEDDING_LOOKUP": (_embedding_lookup, ()),
    "FULLY_CONNECTED": (_fully_connected, ("CONV_2D", "RESHAPE")),
    "GELU": (_gelu, ("ADD", "LOGISTIC", "MUL")),
    "HARD_SWISH": (_hard_swish, ("ADD", "MUL")),
    "LEAKY_RELU": (_leaky_relu, ("ADD", "MUL", "RELU")),
    "LOG": (_log, ("ADD", "LOGISTIC", "MUL")),
    "MINIMUM": (_minimum, ("MAXIMUM", "MUL")),
    "NEG": (_neg, ("MUL",)),
    "PRELU": (_prelu, ("ADD", "MUL", "RELU")),
    "RELU6": (_relu6, ("MUL",)),
    "RELU_0_TO_1": (_relu_0_to_1, ("MUL",)),
    "RELU_N1_TO_1": (_relu_n1_to_1, ("ADD", "MUL")),
    "REVERSE_V2": (_reverse, ("CONCATENATION", "SLICE")),
    "SQUARE": (_square, ("MUL",)),
}
# What quantisers leave in float.
_FLOAT = {"ABS", "EMBEDDING_LOOKUP", "LEAKY_RELU", "MINIMUM", "NEG", "PRELU", "RELU6", "SQUARE"}
