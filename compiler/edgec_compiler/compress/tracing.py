"""Follows channels through a captured graph: which weight slices depend on which.

Understood: convolutions (any groups) and transposed ones, linear layers and products with constant
matrices, batch norm, embeddings, pointwise operators with broadcasting, pooling, resizing, padding
of space, concatenation, splitting and slicing, reshaping, permuting, means over space, products of
two activations. Held: whatever is normalised, reduced or softmaxed over its channels, graph
outputs, and the inputs of every other operator. Held channels stay; `Trace.atoms` says why.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx

from edgec_compiler.compress.atoms import Atoms, Ids
from edgec_compiler.compress.reshaping import Axes, reshaped
from edgec_compiler.passes.graph import held, shape_of

_A = torch.ops.aten
Rule = Callable[["Trace", fx.Node], Axes]
GETITEM = operator.getitem


@dataclass(slots=True)
class Trace:
    """The atoms of a graph, and for every value the atoms along its axes."""

    graph: fx.GraphModule
    atoms: Atoms = field(default_factory=Atoms)
    axes: dict[fx.Node, Axes] = field(default_factory=dict)
    parts: dict[fx.Node, tuple[Axes, ...]] = field(default_factory=dict)  # of split values
    _frozen: dict[str, str] = field(default_factory=dict)  # weights read in other ways, and by whom
    _whole: dict[tuple[str, int], str] = field(default_factory=dict)  # the same for one axis

    @classmethod
    def of(cls, graph: fx.GraphModule, rules: Mapping[Any, Rule]) -> "Trace":
        """Return the trace of `graph`, whose nodes know their shapes (`passes.graph.observe`)."""
        trace = cls(graph)
        for node in graph.graph.nodes:
            if node.op == "call_function":
                trace.axes[node] = rules.get(node.target, keep)(trace, node)
            elif node.op == "output":
                keep(trace, node)
            else:
                trace.axes[node] = {}
        for (weight, axis), ids in trace.atoms.cuts.items():
            why = trace._frozen.get(weight) or trace._whole.get((weight, axis))
            if why is not None:
                trace.atoms.hold(ids, why)
        return trace

    def of_value(self, value: Any, reader: fx.Node) -> Axes:
        """Return the atoms along the axes of `value`, an argument of `reader`."""
        if not isinstance(value, fx.Node):
            return {}
        if value.op == "get_attr":
            self._frozen.setdefault(str(value.target), said(reader))
        return self.axes.get(value, {})

    def weight(self, value: Any) -> torch.Tensor | None:
        """Return the constant that `value` reads, if it is one."""
        return held(self.graph, value)

    def cut(self, reader: fx.Node, value: Any, axis: int, ids: Ids | None) -> None:
        """Note whose the slices of a constant argument of `reader` are; no atoms: they stay."""
        if not isinstance(value, fx.Node):
            return
        if ids is None:
            self._whole.setdefault((str(value.target), axis), said(reader))
        else:
            self.atoms.cut(str(value.target), axis, ids)

    def hold(self, axes: Axes, reader: fx.Node, *only: int) -> None:
        """Keep the atoms along `axes` (along `only` some of them), because of `reader`."""
        for axis, ids in axes.items():
            if not only or axis in only:
                self.atoms.hold(ids, said(reader))


def said(node: fx.Node) -> str:
    """Return how to name an operator to people."""
    return "output" if node.op == "output" else str(node.target).split(".")[1].rstrip("_")


def keep(trace: Trace, node: fx.Node) -> Axes:
    """Hold the channels of everything that `node` reads: it is not understood."""
    for value in node.all_input_nodes:
        trace.hold(trace.of_value(value, node), node)
        for part in trace.parts.get(value, ()):
            trace.hold(part, node)
    return {}


def pointwise(trace: Trace, node: fx.Node) -> Axes:
    """Tie operands that meet element by element, with broadcasting; cut constant ones."""
    shape = shape_of(node)
    if shape is None:
        return keep(trace, node)
    rank = len(shape)
    operands = [(value, shape_of(value) or ()) for value in node.all_input_nodes]
    if any(len(own) > rank for _, own in operands):
        return keep(trace, node)
    found: Axes = {}
    for axis, size in enumerate(shape):
        ids = _meet(trace, node, [(v, s, axis - rank + len(s)) for v, s in operands], size)
        if ids is not None:
            found[axis] = ids
    return found


def _meet(
    trace: Trace, node: fx.Node, operands: list[tuple[fx.Node, tuple[int, ...], int]], size: int
) -> Ids | None:
    """Return the atoms that operands share along one axis; (value, shape, its own axis) each."""
    tracked, constants, whole = [], [], True
    for value, shape, own in operands:
        if own < 0:
            continue
        if value.op == "get_attr":
            if shape[own] == size > 1:
                constants.append((value, own))
            continue
        ids = trace.axes.get(value, {}).get(own)
        if ids is not None and shape[own] < size:  # one channel spread over many
            trace.atoms.hold(ids, said(node))
        elif ids is not None:
            tracked.append(ids)
        elif shape[own] == size > 1:
            whole = False
    if not tracked:
        for value, _ in constants:
            trace.of_value(value, node)
        return None
    for ids in tracked[1:]:
        trace.atoms.tie(tracked[0], ids)
    for value, own in constants:
        trace.cut(node, value, own, tracked[0])
    if not whole:
        trace.atoms.hold(tracked[0], said(node))
    return tracked[0]


def spatial(rank: int) -> Rule:
    """Return the rule of operators that work over the last `rank` axes alone."""

    def rule(trace: Trace, node: fx.Node) -> Axes:
        source: Any = node.args[0]
        axes, shape = trace.of_value(source, node), shape_of(source) or ()
        trace.hold(axes, node, *(range(len(shape) - rank, len(shape))))
        return {axis: ids for axis, ids in axes.items() if axis < len(shape) - rank}

    return rule


def view(trace: Trace, node: fx.Node) -> Axes:
    """Follow channels through a change of shape."""
    before, after = shape_of(node.args[0]), shape_of(node)
    if before is None or after is None:
        return keep(trace, node)
    axes = trace.of_value(node.args[0], node)
    made, lost = reshaped(axes, before, after, trace.atoms.tie)
    trace.hold({axis: axes[axis] for axis in lost}, node)
    return made


def permute(trace: Trace, node: fx.Node) -> Axes:
    """Move axes as the operator does."""
    shape = shape_of(node.args[0]) or ()
    rank = len(shape)
    if node.target is _A.permute.default:
        order = [int(a) % rank for a in node.args[1]]  # type: ignore[union-attr, arg-type]
    else:
        order = list(range(rank))
        one, other = (0, 1) if node.target is _A.t.default else node.args[1:3]
        if rank > 1:
            a, b = int(one) % rank, int(other) % rank  # type: ignore[arg-type]
            order[a], order[b] = order[b], order[a]
    axes = trace.of_value(node.args[0], node)
    return {new: axes[old] for new, old in enumerate(order) if old in axes}


def over(trace: Trace, node: fx.Node) -> Axes:
    """Hold the axes that are reduced or normalised (args[1]); the others pass."""
    source: Any = node.args[0]
    rank = len(shape_of(source) or ())
    given: Any = node.args[1] if len(node.args) > 1 else None
    if given is None or (isinstance(given, list) and not given):
        return keep(trace, node)
    reduced = {int(a) % rank for a in (given if isinstance(given, list | tuple) else [given])}
    axes = trace.of_value(source, node)
    trace.hold({a: ids for a, ids in axes.items() if a in reduced}, node)
    kept = len(shape_of(node) or ()) == rank
    return {
        axis if kept else axis - sum(r < axis for r in reduced): ids
        for axis, ids in axes.items()
        if axis not in reduced
    }


def layer_norm(trace: Trace, node: fx.Node) -> Axes:
    """Hold what the mean is taken over: it changes when a channel goes."""
    source, normalised = node.args[:2]
    rank = len(shape_of(source) or ())
    first = rank - len(normalised)  # type: ignore[arg-type]
    axes = trace.of_value(source, node)
    trace.hold({a: ids for a, ids in axes.items() if a >= first}, node)
    for value in node.args[2:4]:
        trace.of_value(value, node)
    return {axis: ids for axis, ids in axes.items() if axis < first}


def cat(trace: Trace, node: fx.Node) -> Axes:
    """Join the atoms of the parts; the other axes are tied."""
    values: Any = node.args[0]
    shape = shape_of(node) or ()
    dim: Any = node.args[1] if len(node.args) > 1 else 0
    dim %= len(shape)
    parts = [trace.of_value(value, node) for value in values]
    found: Axes = {}
    if any(dim in part for part in parts):
        found[dim] = np.concatenate(
            [
                part[dim] if dim in part else _stays(trace, node, (shape_of(value) or (0,))[dim])
                for part, value in zip(parts, values, strict=True)
            ]
        )
    for axis in range(len(shape)):
        tracked = [part[axis] for part in parts if axis in part]
        if axis == dim or not tracked:
            continue
        for ids in tracked[1:]:
            trace.atoms.tie(tracked[0], ids)
        if len(tracked) < len(parts):
            trace.atoms.hold(tracked[0], said(node))
        found[axis] = tracked[0]
    return found


def _stays(trace: Trace, node: fx.Node, count: int) -> Ids:
    ids = trace.atoms.fresh(count)
    trace.atoms.hold(ids, said(node))
    return ids


def split(trace: Trace, node: fx.Node) -> Axes:
    """Cut channels into parts, each of which keeps at least its first."""
    source: Any = node.args[0]
    axes, rank = trace.of_value(source, node), len(shape_of(source) or ())
    given = node.args[2] if len(node.args) > 2 else node.kwargs.get("dim", 0)
    dim = int(given) % rank  # type: ignore[arg-type]
    if dim not in axes:
        return keep(trace, node)
    start, parts = 0, []
    for size in part_sizes(node, len(axes[dim])):
        ids = axes[dim][start : start + size]
        trace.atoms.hold(ids[:1], said(node))
        parts.append({**axes, dim: ids})
        start += size
    trace.parts[node] = tuple(parts)
    return {}


def part_sizes(node: fx.Node, total: int) -> list[int]:
    """Return the sizes of the parts that chunk, split or split_with_sizes makes of `total`."""
    given: Any = node.args[1]
    if isinstance(given, list | tuple):
        return [int(size) for size in given]
    size = -(-total // int(given)) if node.target is _A.chunk.default else int(given)
    return [min(size, total - start) for start in range(0, total, size)]


def item(trace: Trace, node: fx.Node) -> Axes:
    """Take one part of a split value."""
    source, index = node.args
    parts = trace.parts.get(source)  # type: ignore[arg-type]
    return {} if parts is None else parts[index]  # type: ignore[index]


def cut_out(trace: Trace, node: fx.Node) -> Axes:
    """Follow a slice with step 1; others hold the axis."""
    axes = dict(trace.of_value(node.args[0], node))
    rank = len(shape_of(node.args[0]) or ())
    given: list[Any] = [*node.args[1:], *(0, None, None, 1)[len(node.args) - 1 :]]
    dim, start, end, step = given
    dim %= rank
    if dim in axes:
        if step != 1:
            trace.atoms.hold(axes[dim], said(node))
            del axes[dim]
        else:
            axes[dim] = axes[dim][start:end]
            trace.atoms.hold(axes[dim][:1], said(node))
    return axes
