"""Control flow of ONNX: taken apart while the graph is built, since every shape is static.

`If` with a constant condition becomes its branch; with one that depends on the data, both branches
are computed and the condition picks, which is the same since operators have no side effects. `Loop`
and `Scan` are unrolled. Refused: a loop whose end depends on the data, branches of unlike shapes.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from torch import Tensor

from edgec_compiler.importers.onnx_functions import inline_graph
from edgec_compiler.importers.onnx_node import Constant, Node


class Walk(Protocol):
    """What control flow needs of the builder of a module."""

    opset: int
    constants: dict[str, Constant]

    def hold(self, name: str, tensor: onnx.TensorProto) -> None:
        """Keep a tensor of the file as a constant."""

    def walk(self, nodes: list[onnx.NodeProto]) -> None:
        """Add nodes in order."""

    def count(self) -> None:
        """Count one turn of a loop."""

    def example(self, name: str) -> Any:
        """Return the value of a name on the example input."""

    def run(self, node: Node, call: Callable[..., Any]) -> None:
        """Add one operator."""


def _enter(walk: Walk, node: Node, body: Any, place: str, given: list[str]) -> list[str]:
    """Add the operators of a subgraph; return the names of its outputs."""
    if not isinstance(body, onnx.GraphProto):
        node.refuse("its body is missing")
    nodes, initialisers, outputs = inline_graph(body, f"{node.outputs[0]}/{place}/", given)
    for name, tensor in initialisers.items():
        walk.hold(name, tensor)
    walk.walk(nodes)
    return outputs


def _pass_on(walk: Walk, node: Node, source: str, target: str) -> None:
    walk.run(_inner(walk, node, "Identity", (source,), target), lambda _node, x: x)


def _inner(walk: Walk, node: Node, op: str, inputs: tuple[str, ...], output: str) -> Node:
    known = tuple(walk.constants.get(name) for name in inputs)
    return Node(f"{node.op}/{op}", walk.opset, inputs, (output,), {}, known)


def _if(walk: Walk, node: Node) -> None:
    condition = node.constants[0]
    if condition is not None:
        branch = "then_branch" if bool(np.all(condition)) else "else_branch"
        made = _enter(walk, node, node.attr(branch), branch, [])
        for source, target in zip(made, node.outputs, strict=False):
            _pass_on(walk, node, source, target)
        return
    yes, no = (
        _enter(walk, node, node.attr(branch), branch, [])
        for branch in ("then_branch", "else_branch")
    )
    for one, other, target in zip(yes, no, node.outputs, strict=False):
        a, b = walk.example(one), walk.example(other)
        if not isinstance(a, Tensor) or not isinstance(b, Tensor) or a.shape != b.shape:
            node.refuse("the condition depends on the data, and its branches differ in shape")
        pick = _inner(walk, node, "Where", (node.inputs[0], one, other), target)
        walk.run(pick, lambda _node, condition, a, b: torch.where(condition, a, b))


def _loop(walk: Walk, node: Node) -> None:
    turns = int(_scalar(node, 0, "number of turns")) if node.has(0) else None
    going = bool(_scalar(node, 1, "condition")) if node.has(1) else True
    state = list(node.inputs[2:])
    rows: list[list[str]] = [[] for _ in node.outputs[len(state) :]]
    turn = 0
    while going and (turns is None or turn < turns):
        walk.count()
        at = f"{node.outputs[0]}/{turn}"
        walk.constants |= {f"{at}:turn": np.array(turn), f"{at}:going": np.array(True)}
        made = _enter(
            walk, node, node.attr("body"), str(turn), [f"{at}:turn", f"{at}:going", *state]
        )
        if made[0] not in walk.constants:
            node.refuse("its end depends on the data; only a constant number of turns is unrolled")
        going = bool(np.all(walk.constants[made[0]]))
        state = made[1 : 1 + len(state)]
        for row, name in zip(rows, made[1 + len(state) :], strict=True):
            row.append(name)
        turn += 1
    _leave(walk, node, state, rows, [0] * len(rows), [False] * len(rows))


def _scalar(node: Node, index: int, what: str) -> Any:
    """Return a constant input of one element, whose shape may be [] or [1]."""
    value = node.constant(index, what)
    if value.size != 1:
        node.refuse(f"{what} is not one value but {list(value.shape)}")
    return value.reshape(())[()]


def _scan(walk: Walk, node: Node) -> None:
    if node.opset < 9:
        node.refuse("Scan of opset 8 is not supported: export with opset 9 or newer")
    scanned = node.attr("num_scan_inputs", 0)
    state, inputs = list(node.inputs[:-scanned]), list(node.inputs[-scanned:])
    axes = node.attr("scan_input_axes") or [0] * scanned
    backward = node.attr("scan_input_directions") or [0] * scanned
    count = len(node.outputs) - len(state)
    rows: list[list[str]] = [[] for _ in range(count)]
    length = walk.example(inputs[0]).shape[axes[0]]
    for turn in range(length):
        walk.count()
        slices = []
        for number, (name, axis) in enumerate(zip(inputs, axes, strict=True)):
            target = f"{node.outputs[0]}/{turn}:{number}"
            place = length - 1 - turn if backward[number] else turn
            cut = _inner(walk, node, "Select", (name,), target)
            walk.run(cut, lambda _node, x, axis=axis, place=place: x.select(axis, place))
            slices.append(target)
        made = _enter(walk, node, node.attr("body"), str(turn), [*state, *slices])
        state = made[: len(state)]
        for row, name in zip(rows, made[len(state) :], strict=True):
            row.append(name)
    out_axes = node.attr("scan_output_axes") or [0] * count
    flips = [bool(one) for one in node.attr("scan_output_directions") or [0] * count]
    _leave(walk, node, state, rows, out_axes, flips)


def _leave(
    walk: Walk,
    node: Node,
    state: list[str],
    rows: list[list[str]],
    axes: list[int],
    flips: list[bool],
) -> None:
    """Give the last state and the collected rows the names of the node's outputs."""
    for source, target in zip(state, node.outputs, strict=False):
        if target:
            _pass_on(walk, node, source, target)
    for row, axis, flip, target in zip(rows, axes, flips, node.outputs[len(state) :], strict=True):
        if not row:
            node.refuse("a loop without turns that collects something")
        names = tuple(row[::-1] if flip else row)
        stack = _inner(walk, node, "Stack", names, target)
        walk.run(stack, lambda _node, *xs, axis=axis: torch.stack(xs, axis))


CONTROL: dict[str, Callable[[Walk, Node], None]] = {"If": _if, "Loop": _loop, "Scan": _scan}
