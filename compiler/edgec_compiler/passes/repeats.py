"""Images and signals whose parts are repeated, as the nearest-neighbour resize that this is.

Known: repeat_interleave, and what Keras writes for it: an axis of 1 behind the axis, expanded and
reshaped away. Channel-last ones (axes 1 and 2) are turned for it and back; those transposes meet
others and cancel. A repetition of columns behind one of rows becomes one resize.
Left alone: values of other ranks than 3 and 4, the batch, and integers, which no runtime resizes.
"""

from typing import Any

import torch
from torch import fx

from edgec_compiler.passes.arithmetic import call
from edgec_compiler.passes.graph import is_call, replace, shape_of

_A = torch.ops.aten
_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]
_SIGNAL, _IMAGE = 3, 4  # ranks

Repetition = tuple[Any, int, int]  # of what, along which axis, how many times


def resize(graph: fx.GraphModule) -> int:
    """Rewrite in place; return how many resizes were made."""
    made = 0
    while True:
        node = next((n for n in reversed(graph.graph.nodes) if _repetition(n) is not None), None)
        if node is None:
            return made
        _rewrite(graph, node)
        graph.graph.eliminate_dead_code()
        made += 1


def count(graph: fx.GraphModule) -> int:
    """Return how many repetitions could be resizes."""
    return sum(_repetition(node) is not None for node in graph.graph.nodes)


def _repetition(node: Any) -> Repetition | None:
    """Return what a node repeats along one axis of an image; None if it does not."""
    found = _interleaved(node) or _expanded(node)
    if found is None or not getattr(node.meta.get("dtype"), "is_floating_point", False):
        return None
    source, axis, _ = found
    return found if len(shape_of(source) or ()) in (_SIGNAL, _IMAGE) and axis > 0 else None


def _interleaved(node: Any) -> Repetition | None:
    if not is_call(node, _A.repeat_interleave.self_int) or len(node.args) != 3:
        return None
    source, times, axis = node.args
    return source, axis % len(shape_of(source) or (1,)), times


def _expanded(node: Any) -> Repetition | None:
    if not is_call(node, _A.reshape.default):
        return None
    expanded: Any = node.args[0]
    single: Any = expanded.args[0] if is_call(expanded, _A.expand.default) else None
    if not is_call(single, _A.unsqueeze.default):
        return None
    source, behind = single.args
    before, after, made = shape_of(source), shape_of(expanded), shape_of(node)
    if before is None or after is None or made is None:
        return None
    axis = behind % len(after) - 1
    if axis < 0:
        return None
    times = after[axis + 1]
    repeated = (*before[:axis], before[axis] * times, *before[axis + 1 :])
    same = after == (*before[: axis + 1], times, *before[axis + 1 :])
    return (source, axis, times) if same and made == repeated else None


def _rewrite(graph: fx.GraphModule, node: fx.Node) -> None:
    found = _repetition(node)
    assert found is not None  # noqa: S101  resize has looked
    source, axis, count = found
    if len(shape_of(source) or ()) == _SIGNAL:
        replace(node, _resized_signal(graph, node, found))
        return
    times = {axis: float(count)}
    inner = _repetition(source)
    pair = inner is not None and {axis, inner[1]} in ({1, 2}, {2, 3})
    if inner is not None and pair and set(source.users) <= _use(node):
        times[inner[1]] = float(inner[2])
        source = inner[0]
    last = 3 not in times  # a channel-last image, or one whose channels count as rows
    scales = [times.get(one, 1.0) for one in ((1, 2) if last else (2, 3))]
    if last:
        source = call(graph, node, _A.permute.default, (source, _TO_NCHW))
    made = call(graph, node, _A.upsample_nearest2d.vec, (source, None, scales))
    if last:
        made = call(graph, node, _A.permute.default, (made, _TO_NHWC))
    replace(node, made)


def _resized_signal(graph: fx.GraphModule, node: fx.Node, found: Repetition) -> fx.Node:
    source, axis, count = found
    if axis == 1:
        source = call(graph, node, _A.permute.default, (source, [0, 2, 1]))
    made = call(graph, node, _A.upsample_nearest1d.vec, (source, None, [float(count)]))
    return made if axis > 1 else call(graph, node, _A.permute.default, (made, [0, 2, 1]))


def _use(node: fx.Node) -> set[Any]:
    """Return a repetition's own nodes, from the one that reads what is repeated."""
    if is_call(node, _A.repeat_interleave.self_int):
        return {node}
    expanded: Any = node.args[0]
    return {expanded.args[0]}
