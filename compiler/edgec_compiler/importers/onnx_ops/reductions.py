"""Operators that reduce along axes, and the softmax family."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgec_compiler.importers.onnx_node import Node

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _reduce(call: Reduce) -> Callable[..., Tensor]:
    def run(node: Node, x: Tensor, *_axes: Tensor) -> Tensor:
        axes = node.ints_from("axes", 1)
        if not axes:
            if node.attr("noop_with_empty_axes", 0):
                return call(x.unsqueeze(0), [0], False)  # what is applied per element stays
            axes = list(range(x.dim()))
        return call(x, sorted(a % max(x.dim(), 1) for a in axes), bool(node.attr("keepdims", 1)))

    return run


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in reversed(axes):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype) if axes else x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(axes, keepdim=keep) if axes else x
    return x.double().mean(axes, keepdim=keep).trunc().to(x.dtype)


def _extreme(call: Callable[..., Tensor], *, largest: bool) -> Reduce:
    def run(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if x.numel():
            return call(x, axes, keepdim=keep)
        if x.is_floating_point():
            neutral: float = float("-inf") if largest else float("inf")
        elif x.dtype == torch.bool:
            neutral = not largest
        else:
            limits = torch.iinfo(x.dtype)
            neutral = limits.min if largest else limits.max
        empty = x.sum(axes, keepdim=keep, dtype=torch.int64)
        return torch.full(empty.shape, neutral, dtype=x.dtype)

    return run


def _softmax(call: Callable[[Tensor, int], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    def run(node: Node, x: Tensor) -> Tensor:
        if node.opset >= 13:
            return call(x, node.attr("axis", -1))
        axis = node.attr("axis", 1) % x.dim()
        if axis == x.dim() - 1:
            return call(x, axis)
        rows = math.prod(x.shape[:axis])
        return call(x.reshape(rows, -1), -1).reshape(x.shape)

    return run


def _hardmax(x: Tensor, axis: int) -> Tensor:
    best = x.argmax(axis, keepdim=True)
    positions = torch.arange(x.shape[axis]).reshape(
        [-1 if i == axis % x.dim() else 1 for i in range(x.dim())]
    )
    return (positions == best).to(x.dtype)


OPS: dict[str, Callable[..., Any]] = {
    "Hardmax": _softmax(_hardmax),
    "LogSoftmax": _softmax(lambda x, axis: functional.log_softmax(x, axis)),
    "ReduceL1": _reduce(lambda x, axes, keep: _sum(x.abs(), axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: _sum(x * x, axes, keep).sqrt().to(x.dtype)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: _sum(x, axes, keep).log()),
    "ReduceLogSumExp": _reduce(
        lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep) if axes else x
    ),
    "ReduceMax": _reduce(_extreme(torch.amax, largest=True)),
    "ReduceMean": _reduce(_mean),
    "ReduceMin": _reduce(_extreme(torch.amin, largest=False)),
    "ReduceProd": _reduce(_prod),
    "ReduceSum": _reduce(_sum),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: _sum(x * x, axes, keep)),
    "Softmax": _softmax(lambda x, axis: functional.softmax(x, axis)),
}
