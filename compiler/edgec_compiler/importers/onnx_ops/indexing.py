"""Operators that pick or place elements by index."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgec_compiler.importers.onnx_node import Node

_SCATTER = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(index: Tensor, size: int) -> Tensor:
    """Return `index` with negative entries counted from the end."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


def _gather(node: Node, x: Tensor, index: Tensor) -> Tensor:
    axis = node.attr("axis", 0) % x.dim()
    known = node.constants[1]
    if known is not None and known.ndim == 0:
        return x.select(axis, int(known))
    flat = _wrapped(index, x.shape[axis]).reshape(-1)
    return x.index_select(axis, flat).reshape(x.shape[:axis] + index.shape + x.shape[axis + 1 :])


def _gather_elements(node: Node, x: Tensor, index: Tensor) -> Tensor:
    axis = node.attr("axis", 0)
    return torch.gather(x, axis, _wrapped(index, x.shape[axis]))


def _gather_nd(node: Node, x: Tensor, index: Tensor) -> Tensor:
    batch = node.attr("batch_dims", 0)
    if batch:
        rows = [
            _gather_nd_row(a, i)
            for a, i in zip(x.flatten(0, batch - 1), index.flatten(0, batch - 1), strict=True)
        ]
        picked = torch.stack(rows)
        return picked.reshape(x.shape[:batch] + picked.shape[1:])
    return _gather_nd_row(x, index)


def _gather_nd_row(x: Tensor, index: Tensor) -> Tensor:
    columns = [_wrapped(index[..., i], x.shape[i]) for i in range(index.shape[-1])]
    return x[tuple(columns)]


def _scatter_elements(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    axis, how = node.attr("axis", 0), node.attr("reduction", "none")
    index = _wrapped(index, x.shape[axis])
    if how == "none":
        return torch.scatter(x, axis, index, updates)
    return torch.scatter_reduce(x, axis, index, updates, _SCATTER[how])


def _scatter_nd(node: Node, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    how, depth = node.attr("reduction", "none"), index.shape[-1]
    strides = torch.tensor([x[(0,) * i].numel() // max(x.shape[i], 1) for i in range(depth)])
    sizes = torch.tensor(x.shape[:depth])
    wrapped = torch.where(index < 0, index + sizes, index)
    inner = x[(0,) * depth].numel()
    start = (wrapped * strides).sum(-1).reshape(-1, 1)
    where = (start + torch.arange(inner)).reshape(-1)
    flat, new = x.reshape(-1), updates.reshape(-1)
    if how == "none":
        return torch.scatter(flat, 0, where, new).reshape(x.shape)
    return torch.scatter_reduce(flat, 0, where, new, _SCATTER[how]).reshape(x.shape)


def _tensor_scatter(node: Node, cache: Tensor, update: Tensor, *at: Tensor | None) -> Tensor:
    """Write `update` into a cache behind what is there: from `at` [batch] on, along one axis."""
    axis = node.attr("axis", -2) % cache.dim()
    first = at[0] if at and at[0] is not None else torch.zeros(cache.shape[0], dtype=torch.int64)
    rows = first.to(torch.int64).reshape(-1, 1) + torch.arange(update.shape[axis])
    if node.attr("mode", "linear") == "circular":
        rows = rows % cache.shape[axis]
    spread = [cache.shape[0] if i == 0 else 1 for i in range(cache.dim())]
    spread[axis] = update.shape[axis]
    return torch.scatter(cache, axis, rows.reshape(spread).expand(update.shape), update)


def _one_hot(node: Node, index: Tensor, _depth: Tensor, values: Tensor) -> Tensor:
    depth, axis = node.ints(1, "depth")[0], node.attr("axis", -1)
    hot = _wrapped(index, depth).unsqueeze(-1) == torch.arange(depth)
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


def _top_k(node: Node, x: Tensor, *_k: Tensor) -> tuple[Tensor, Tensor]:
    k = (node.ints_from("k", 1) or [1])[0]
    largest, ordered = bool(node.attr("largest", 1)), bool(node.attr("sorted", 1))
    picked = torch.topk(x, k, node.attr("axis", -1), largest=largest, sorted=ordered)
    return picked.values, picked.indices


def _arg(call: Callable[..., Tensor]) -> Callable[[Node, Tensor], Tensor]:
    def run(node: Node, x: Tensor) -> Tensor:
        axis, keep = node.attr("axis", 0), bool(node.attr("keepdims", 1))
        if not node.attr("select_last_index", 0):
            return call(x, axis, keepdim=keep)
        return torch.rsub(call(x.flip(axis), axis, keepdim=keep), x.shape[axis] - 1)

    return run


def _cumsum(node: Node, x: Tensor, _axis: Tensor) -> Tensor:
    axis = node.ints(1, "axis")[0]
    x = x.flip(axis) if node.attr("reverse", 0) else x
    total = torch.cumsum(x, axis, dtype=x.dtype)
    if node.attr("exclusive", 0):
        total = total - x
    return total.flip(axis) if node.attr("reverse", 0) else total


def _cumprod(node: Node, x: Tensor, _axis: Tensor) -> Tensor:
    axis = node.ints(1, "axis")[0]
    x = x.flip(axis) if node.attr("reverse", 0) else x
    if node.attr("exclusive", 0):
        first = torch.ones_like(x.narrow(axis, 0, 1))
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    total = torch.cumprod(x, axis, dtype=x.dtype)
    return total.flip(axis) if node.attr("reverse", 0) else total


def _compress(node: Node, x: Tensor, _condition: Tensor) -> Tensor:
    chosen = torch.from_numpy(node.constant(1, "condition").nonzero()[0])
    axis = node.attr("axis")
    return x.reshape(-1)[chosen] if axis is None else x.index_select(axis, chosen)


OPS: dict[str, Callable[..., Any]] = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Compress": _compress,
    "CumProd": _cumprod,
    "CumSum": _cumsum,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "TensorScatter": _tensor_scatter,
    "TopK": _top_k,
}
