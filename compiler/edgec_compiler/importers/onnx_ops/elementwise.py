"""Operators that treat each element alone: arithmetic, comparisons, activations, casts."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgec_compiler.importers.onnx_node import Node
from edgec_compiler.importers.onnx_ops.dtypes import cast, torch_dtype


def _unary(call: Callable[[Tensor], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    return lambda _node, x: call(x)


def _binary(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Node, Tensor, Tensor], Tensor]:
    return lambda _node, a, b: call(a, b)


_UNSIGNED = (torch.uint16, torch.uint32)  # for which torch lacks arithmetic


def _wide(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return `call` for unsigned 16- and 32-bit integers too: exact in 64 bits."""

    def run(node: Node, *xs: Tensor) -> Tensor:
        if xs[0].dtype not in _UNSIGNED:
            return call(node, *xs)
        made = call(node, *(x.to(torch.int64) for x in xs))
        return made if made.dtype == torch.bool else made.to(xs[0].dtype)

    return run


def _bit_cast(node: Node, x: Tensor) -> Tensor:
    dtype = torch_dtype(node, node.attr("to"))
    if dtype.itemsize != x.dtype.itemsize:
        node.refuse("the element types differ in size")
    return x.view(dtype)


def _variadic(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda _node, *xs: reduce(call, xs)


def _div(_node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _mod(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if node.attr("fmod", 0) else torch.remainder(a, b)


def _pow(_node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def _mean(_node: Node, *xs: Tensor) -> Tensor:
    return reduce(torch.add, xs) / len(xs)


def _clip(node: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    if node.opset < 11:
        return torch.clamp(x, node.attr("min"), node.attr("max"))
    bounds = [None if given is None else node.constants[i] for i, given in ((1, low), (2, high))]
    if all(
        given is None or known is not None for given, known in zip((low, high), bounds, strict=True)
    ):
        least, most = (None if b is None else b.item() for b in bounds)
        if least == 0 and most is None:
            return functional.relu(x)
        return x if least is most is None else torch.clamp(x, least, most)
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _cast(node: Node, x: Tensor) -> Tensor:
    return cast(x, torch_dtype(node, node.attr("to")), saturate=bool(node.attr("saturate", 1)))


def _cast_like(node: Node, x: Tensor, like: Tensor) -> Tensor:
    return cast(x, like.dtype, saturate=bool(node.attr("saturate", 1)))


def _gelu(node: Node, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.attr("approximate", "none"))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    alpha, beta = node.attr("alpha", 0.2), node.attr("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=1e-6) and beta == 0.5:
        return functional.hardsigmoid(x)
    return torch.clamp(alpha * x + beta, 0, 1)


def _selu(node: Node, x: Tensor) -> Tensor:
    alpha, gamma = node.attr("alpha", 1.6732632423543772), node.attr("gamma", 1.0507009873554805)
    below = alpha * (torch.exp(torch.clamp(x, max=0)) - 1)
    return torch.mul(torch.where(x > 0, x, below), gamma)


def _celu(node: Node, x: Tensor) -> Tensor:
    return functional.celu(x, node.attr("alpha", 1.0))


def _elu(node: Node, x: Tensor) -> Tensor:
    return functional.elu(x, node.attr("alpha", 1.0))


def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, node.attr("alpha", 0.01))


def _thresholded_relu(node: Node, x: Tensor) -> Tensor:
    return torch.where(x > node.attr("alpha", 1.0), x, torch.zeros_like(x))


def _prelu(_node: Node, x: Tensor, slope: Tensor) -> Tensor:
    aligned = (1,) * (x.dim() - slope.dim()) + tuple(slope.shape)
    per_channel = x.dim() > 1 and aligned == (1, x.shape[1], *[1] * (x.dim() - 2))
    if x.is_floating_point() and (slope.numel() == 1 or per_channel):
        return functional.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


def _shrink(node: Node, x: Tensor) -> Tensor:
    bias, edge = node.attr("bias", 0.0), node.attr("lambd", 0.5)
    middle = torch.zeros_like(x)
    return torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, middle)).to(x.dtype)


def _swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.attr("alpha", 1.0) * x)


def _dropout(node: Node, x: Tensor, *_rest: Tensor) -> tuple[Tensor, Tensor]:
    if node.has(2) and node.constant(2, "training mode").any():
        node.refuse("training mode; export the model in evaluation mode")
    return x, torch.ones_like(x, dtype=torch.bool)


def _is_inf(node: Node, x: Tensor) -> Tensor:
    positive = torch.isposinf(x) if node.attr("detect_positive", 1) else torch.zeros_like(x) > 0
    negative = torch.isneginf(x) if node.attr("detect_negative", 1) else torch.zeros_like(x) > 0
    return positive | negative


def _bit_shift(node: Node, a: Tensor, b: Tensor) -> Tensor:
    wide_a, wide_b = a.to(torch.int64), b.to(torch.int64)
    left = node.attr("direction") == "LEFT"
    return (wide_a << wide_b if left else wide_a >> wide_b).to(a.dtype)


OPS: dict[str, Callable[..., Any]] = {
    "Abs": _unary(torch.abs),
    "Acos": _unary(torch.acos),
    "Acosh": _unary(torch.acosh),
    "Add": _wide(_binary(torch.add)),
    "And": _binary(torch.logical_and),
    "Asin": _unary(torch.asin),
    "Asinh": _unary(torch.asinh),
    "Atan": _unary(torch.atan),
    "Atanh": _unary(torch.atanh),
    "BitCast": _bit_cast,
    "BitShift": _bit_shift,
    "BitwiseAnd": _binary(torch.bitwise_and),
    "BitwiseNot": _wide(_unary(torch.bitwise_not)),
    "BitwiseOr": _binary(torch.bitwise_or),
    "BitwiseXor": _binary(torch.bitwise_xor),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(torch.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Cosh": _unary(torch.cosh),
    "Div": _wide(_div),
    "Dropout": _dropout,
    "Elu": _elu,
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _wide(_binary(torch.gt)),
    "GreaterOrEqual": _wide(_binary(torch.ge)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": lambda _node, x: x,
    "IsInf": _is_inf,
    "IsNaN": _unary(torch.isnan),
    "LeakyRelu": _leaky_relu,
    "Less": _wide(_binary(torch.lt)),
    "LessOrEqual": _wide(_binary(torch.le)),
    "Log": _unary(torch.log),
    "Max": _wide(_variadic(torch.maximum)),
    "Mean": _mean,
    "Min": _wide(_variadic(torch.minimum)),
    "Mish": _unary(functional.mish),
    "Mod": _wide(_mod),
    "Mul": _wide(_binary(torch.mul)),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _pow,
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(functional.relu),
    "Round": _unary(torch.round),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Sinh": _unary(torch.sinh),
    "Softplus": _unary(functional.softplus),
    "Softsign": _unary(functional.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _wide(_binary(torch.sub)),
    "Sum": _variadic(torch.add),
    "Swish": _swish,
    "Tan": _unary(torch.tan),
    "Tanh": _unary(torch.tanh),
    "ThresholdedRelu": _thresholded_relu,
    "Where": lambda _node, condition, a, b: torch.where(condition, a, b),
    "Xor": _binary(torch.ne),
}
