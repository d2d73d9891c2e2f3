"""Convolutions over rows [N, C, L] become ones over images of height 1, [N, C, 1, L].

TFLite computes nothing else, and its converter does it layer by layer: whatever lies between two
layers and is not elementwise, such as a causal padding or a slice, would be transposed around.
Lifted with the layers: pools, resizes, means and maxima over the row, and between them elementwise
operators of one value or of two, padding, slices, concatenations, splits and gates. Rows that are
turned from or to channel-last ones [N, L, C] are turned as images: converters then turn nothing.
Only for TFLite.
Left alone: what lies before the first layer and behind the last one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import getitem
from typing import Any, TypeAlias

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import held, hold, is_call, replace, shape_of
from edgec_compiler.passes.transposes import BINARY, UNARY, order_of

_A = torch.ops.aten
_ROWS, _HEIGHT = 3, 2  # the rank of rows, and the axis that they get
_SWAPPED = [0, 2, 1]  # the order of the axes of rows that are turned
_SPLITS = (_A.split.Tensor, _A.split_with_sizes.default, _A.chunk.default)
_REDUCTIONS = (_A.mean.dim, _A.amax.default, _A.sum.dim_IntList)


@dataclass
class _Lifting:
    """The values that exist as images, by the rows that they were."""

    graph: fx.GraphModule
    images: dict[fx.Node, fx.Node] = field(default_factory=dict)

    def image(self, rows: Any, near: fx.Node) -> fx.Node:
        """Return `rows` as an image; made once, where it first comes to be needed."""
        if rows in self.images:
            return self.images[rows]
        n, c, length = shape_of(rows) or ()
        if order_of(rows) == _SWAPPED:
            last = call(self.graph, near, _A.reshape.default, (rows.args[0], [n, 1, length, c]))
            return call(self.graph, near, _A.permute.default, (last, [0, 3, 1, 2]))
        return call(self.graph, near, _A.reshape.default, (rows, [n, c, 1, length]))

    def weights(self, node: Any, near: fx.Node) -> fx.Node:
        """Return a kernel [O, I, K] as [O, I, 1, K]."""
        tensor = held(self.graph, node)
        if tensor is not None:
            return hold(self.graph, tensor.unsqueeze(_HEIGHT), near)
        return call(self.graph, near, _A.unsqueeze.default, (node, _HEIGHT))

    def lower(self) -> None:
        """Let what still reads rows read them off the images."""
        for rows, image in self.images.items():
            readers = [user for user in rows.users if user not in self.images]
            shape = shape_of(rows)
            for reader in [one for one in readers if order_of(one) == _SWAPPED]:
                last = call(self.graph, reader, _A.permute.default, (image, [0, 2, 3, 1]))
                sizes = list(shape_of(reader) or ())
                replace(reader, call(self.graph, reader, _A.reshape.default, (last, sizes)))
                readers.remove(reader)
            if not readers or shape is None:
                continue
            flat = call(self.graph, rows, _A.reshape.default, (image, list(shape)))
            replace(rows, flat)


Written: TypeAlias = tuple[Any, tuple[Any, ...]]  # an operator and its arguments
Build: TypeAlias = Callable[[_Lifting, fx.Node], Written]


def lift(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many operators became ones over images."""
    lifting = _Lifting(graph)
    for node in list(graph.graph.nodes):
        build = _builder(lifting, node)
        if build is None:
            continue
        target, args = build(lifting, node)
        new = call(graph, node, target, args)
        new.kwargs = node.kwargs
        lifting.images[node] = new
    lifting.lower()
    return len(lifting.images)


def count(graph: fx.GraphModule) -> int:
    """Return how many layers over rows there are."""
    return sum(_is_layer(node) for node in graph.graph.nodes)


def _builder(lifting: _Lifting, node: fx.Node) -> Build | None:
    """Return how `node` is written for images, if it is a layer or lies between layers."""
    if _is_layer(node):
        return _LAYERS[node.target]
    if node.op != "call_function" or not node.args:
        return None
    if node.target is getitem:
        return _part if node.args[0] in lifting.images else None
    operands: Any = node.args[0] if is_call(node, _A.cat.default) else node.args[:1]
    if is_call(node, *BINARY):
        operands = node.args[:2]
    if not any(one in lifting.images for one in operands if isinstance(one, fx.Node)):
        return None
    if is_call(node, *_REDUCTIONS, *_SPLITS) and len(shape_of(node.args[0]) or ()) != _ROWS:
        return None  # what a reduction left
    if is_call(node, *_REDUCTIONS):
        return _reduce if _is_along_rows(node) else None
    if is_call(node, *_SPLITS):
        return _along_axis
    if len(shape_of(node) or ()) != _ROWS:
        return None
    if is_call(node, _A.cat.default):
        return _cat
    if is_call(node, *BINARY):
        return _binary if _fits(lifting, node) else None
    return _BETWEEN.get(node.target)


def _is_layer(node: Any) -> bool:
    return is_call(node, *_LAYERS) and len(shape_of(node.args[0]) or ()) == _ROWS


def _fits(lifting: _Lifting, node: fx.Node) -> bool:
    """Return whether all values of an operator are rows, constants or numbers."""
    return all(
        not isinstance(one, fx.Node)
        or held(lifting.graph, one) is not None
        or len(shape_of(one) or ()) == _ROWS
        for one in node.args[:2]
    )


def _is_along_rows(node: fx.Node) -> bool:
    axes: Any = node.args[1] if len(node.args) > 1 else ()
    axes = axes if isinstance(axes, list | tuple) else [axes]
    return [int(axis) % _ROWS for axis in axes] == [_ROWS - 1]


def _axis(axis: Any) -> int:
    place = int(axis) % _ROWS
    return place + 1 if place == _HEIGHT else place


def _pair(values: Any, before: int) -> list[int]:
    """Return what is meant for a row's length, with what leaves the height alone before it."""
    last = values[-1] if isinstance(values, list | tuple) else values
    return [before, int(last)]


def _filled(given: Sequence[Any], *defaults: Any) -> tuple[Any, ...]:
    return (*given, *defaults[len(given) :])


def _convolution(lifting: _Lifting, node: fx.Node) -> Written:
    x, weight, *rest = node.args
    bias, stride, padding, dilation, groups = _filled(rest, None, 1, 0, 1, 1)
    padded = padding if isinstance(padding, str) else _pair(padding, 0)
    target = _A.conv2d.padding if isinstance(padding, str) else _A.conv2d.default
    shaped = (_pair(stride, 1), padded, _pair(dilation, 1), groups)
    return target, (lifting.image(x, node), lifting.weights(weight, node), bias, *shaped)


def _transposed(lifting: _Lifting, node: fx.Node) -> Written:
    x, weight, *rest = node.args
    bias, stride, padding, extra, groups, dilation = _filled(rest, None, 1, 0, 0, 1, 1)
    shaped = (_pair(stride, 1), _pair(padding, 0), _pair(extra, 0), groups, _pair(dilation, 1))
    weights = lifting.weights(weight, node)
    return _A.conv_transpose2d.input, (lifting.image(x, node), weights, bias, *shaped)


def _max_pool(lifting: _Lifting, node: fx.Node) -> Written:
    x, kernel, *rest = node.args
    stride, padding, dilation, ceil = _filled(rest, [], 0, 1, False)
    shaped = (_pair(stride or kernel, 1), _pair(padding, 0), _pair(dilation, 1), ceil)
    return _A.max_pool2d.default, (lifting.image(x, node), _pair(kernel, 1), *shaped)


def _average_pool(lifting: _Lifting, node: fx.Node) -> Written:
    x, kernel, *rest = node.args
    stride, padding, ceil, counted = _filled(rest, [], 0, False, True)
    shaped = (_pair(stride or kernel, 1), _pair(padding, 0), ceil, counted)
    return _A.avg_pool2d.default, (lifting.image(x, node), _pair(kernel, 1), *shaped)


def _adaptive_pool(lifting: _Lifting, node: fx.Node) -> Written:
    return _A.adaptive_avg_pool2d.default, (
        lifting.image(node.args[0], node),
        _pair(node.args[1], 1),
    )


def _resized(lifting: _Lifting, node: fx.Node) -> Written:
    x, size, *scales = node.args
    size = None if size is None else _pair(size, 1)
    factors = [[1.0, *one] if isinstance(one, list | tuple) else None for one in scales]
    return _A.upsample_nearest2d.vec, (lifting.image(x, node), size, *factors)


def _same(lifting: _Lifting, node: fx.Node) -> Written:
    return node.target, (lifting.image(node.args[0], node), *node.args[1:])


def _along_axis(lifting: _Lifting, node: fx.Node) -> Written:
    """Return a split: the axis is its third argument."""
    x, how, *axis = node.args
    return node.target, (lifting.image(x, node), how, _axis(*axis) if axis else 0)


def _gate(lifting: _Lifting, node: fx.Node) -> Written:
    x, *axis = node.args
    return node.target, (lifting.image(x, node), _axis(*axis) if axis else _axis(-1))


def _slice(lifting: _Lifting, node: fx.Node) -> Written:
    x, *rest = node.args
    axis, *ends = rest or (0,)
    return node.target, (lifting.image(x, node), _axis(axis), *ends)


def _part(lifting: _Lifting, node: fx.Node) -> Written:
    split: Any = node.args[0]
    return getitem, (lifting.images[split], node.args[1])


def _pad(lifting: _Lifting, node: fx.Node) -> Written:
    """Pads come as pairs, the last axis first."""
    x, pads, *value = node.args
    assert isinstance(pads, list | tuple)  # noqa: S101  the schema's int[]
    shaped = [*pads[:2], 0, 0, *pads[2:]]
    return _PADS[node.target], (lifting.image(x, node), shaped, *value)


def _cat(lifting: _Lifting, node: fx.Node) -> Written:
    parts: Any = node.args[0]
    axis = _axis(node.args[1]) if len(node.args) > 1 else 0
    return node.target, ([lifting.image(part, node) for part in parts], axis)


def _reduce(lifting: _Lifting, node: fx.Node) -> Written:
    """Keep the axis in any case: what reads no rows gets the result reshaped."""
    return node.target, (lifting.image(node.args[0], node), [_axis(-1)], True)


def _binary(lifting: _Lifting, node: fx.Node) -> Written:
    def operand(one: Any) -> Any:
        constant = held(lifting.graph, one)
        if constant is not None:
            if constant.dim() < _HEIGHT:
                return one
            return hold(lifting.graph, constant.unsqueeze(-2), node)
        return lifting.image(one, node) if isinstance(one, fx.Node) else one

    return node.target, (*map(operand, node.args[:2]), *node.args[2:])


_LAYERS: dict[Any, Build] = {
    _A.conv1d.default: _convolution,
    _A.conv1d.padding: _convolution,
    _A.conv_transpose1d.default: _transposed,
    _A.max_pool1d.default: _max_pool,
    _A.avg_pool1d.default: _average_pool,
    _A.upsample_nearest1d.vec: _resized,
}
_PADS: dict[Any, Any] = {
    _A.constant_pad_nd.default: _A.constant_pad_nd.default,
    _A.pad.default: _A.pad.default,
    _A.reflection_pad1d.default: _A.reflection_pad2d.default,
    _A.replication_pad1d.default: _A.replication_pad2d.default,
}
_BETWEEN: dict[Any, Build] = {
    **dict.fromkeys(UNARY, _same),
    **dict.fromkeys(_PADS, _pad),
    _A.adaptive_avg_pool1d.default: _adaptive_pool,
    _A.slice.Tensor: _slice,
    _A.glu.default: _gate,
}
