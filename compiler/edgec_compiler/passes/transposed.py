"""Transposed convolutions with steps, whose padding LiteRT's converter has no form for.

Rewritten: paddings and output paddings become a cut out of the unpadded result, or zeros behind
it; dilated weights get their zeros written out.
Left alone: steps of 1, what needs neither, and the padding that is the same on all sides of an
output of input times step, which the converter knows as "same".
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import held, hold, is_call, replace, shape_of
from edgec_compiler.passes.scaling import TRANSPOSED

_A = torch.ops.aten


def cut_out(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many transposed convolutions were rewritten."""
    found = [node for node in graph.graph.nodes if _is_odd(graph, node)]
    for node in found:
        _rewrite(graph, node)
    graph.graph.eliminate_dead_code()
    return len(found)


def count(graph: fx.GraphModule) -> int:
    """Return how many there are."""
    return sum(_is_odd(graph, node) for node in graph.graph.nodes)


def _settings(node: fx.Node) -> tuple[list[int], list[int], list[int], int, list[int]]:
    """Return stride, padding, output padding, groups and dilation of a transposed convolution."""
    rank = len(shape_of(node) or ()) - 2
    given: list[Any] = [*node.args[3:], *[None] * (8 - len(node.args))]

    def each(value: Any, default: int) -> list[int]:
        sizes = [default] if value is None or value == [] else list(value)
        return sizes * rank if len(sizes) == 1 else sizes

    stride, padding, extra = each(given[0], 1), each(given[1], 0), each(given[2], 0)
    return stride, padding, extra, 1 if given[3] is None else int(given[3]), each(given[4], 1)


def _is_odd(graph: fx.GraphModule, node: Any) -> bool:
    if not is_call(node, *TRANSPOSED) or node.kwargs:
        return False
    weight = held(graph, node.args[1])
    bias = node.args[2] if len(node.args) > 2 else None
    if weight is None or (bias is not None and held(graph, bias) is None):
        return False
    stride, padding, extra, _, dilation = _settings(node)
    if max(stride) == 1:
        return False
    if max(dilation) > 1:
        return True
    if not any(padding) and not any(extra):
        return False
    same = [k - s == 2 * p for k, s, p in zip(weight.shape[2:], stride, padding, strict=True)]
    return any(extra) or not all(same)


def _rewrite(graph: fx.GraphModule, node: fx.Node) -> None:
    stride, padding, extra, groups, dilation = _settings(node)
    weight, wanted = held(graph, node.args[1]), shape_of(node)
    assert weight is not None and wanted is not None  # noqa: S101, PT018  _is_odd has looked
    bias: Any = node.args[2] if len(node.args) > 2 else None
    weight = _spread(weight, dilation)
    beyond = [max(0, e - p) for e, p in zip(extra, padding, strict=True)]
    inside = None if any(beyond) else bias  # the zeros behind get the bias, too
    args = (node.args[0], hold(graph, weight, node), inside, stride, [0], [0], groups)
    made = call(graph, node, node.target, args)
    if any(beyond):
        pads = [amount for end in reversed(beyond) for amount in (0, end)]
        made = call(graph, node, _A.constant_pad_nd.default, (made, pads))
    for axis, (before, size) in enumerate(zip(padding, wanted[2:], strict=True), start=2):
        if before:  # without, nothing lies behind either
            made = call(graph, node, _A.slice.Tensor, (made, axis, before, before + size))
    if inside is None and bias is not None:
        values = held(graph, bias)
        assert values is not None  # noqa: S101
        shaped = hold(graph, values.reshape(-1, *[1] * len(stride)), node)
        made = call(graph, node, _A.add.Tensor, (made, shaped))
    replace(node, made)


def _spread(weight: torch.Tensor, dilation: list[int]) -> torch.Tensor:
    """Return the weights [in, out / groups, ...] with the zeros between that dilation means."""
    sizes = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True)]
    wide = weight.new_zeros(*weight.shape[:2], *sizes)
    places: tuple[Any, ...] = (..., *(slice(None, None, step) for step in dilation))
    wide[places] = weight
    return wide
