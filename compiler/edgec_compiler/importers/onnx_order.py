"""Puts the nodes of an ONNX graph into an order in which each finds its inputs made.

ONNX asks for that order, and ONNX Runtime does without it: files that tools have rewritten often
append new nodes at the end. A file whose nodes lie in order already keeps its own.
"""

import heapq
from collections.abc import Iterator, Sequence

import onnx


def put_in_order(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Reorder the nodes of `graph` and of its subgraphs where they are out of order.

    Nodes keep the file's order as far as their inputs allow. Those of a circle come last.
    """
    for node in graph.node:
        for body in _bodies(node):
            put_in_order(body)
    order = _order(graph.node)
    if order != list(range(len(order))):
        nodes = [onnx.NodeProto() for _ in order]
        for copy, index in zip(nodes, order, strict=True):
            copy.CopyFrom(graph.node[index])
        del graph.node[:]
        graph.node.extend(nodes)


def _order(nodes: Sequence[onnx.NodeProto]) -> list[int]:
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waits: list[int] = []
    readers: list[list[int]] = [[] for _ in nodes]
    for index, node in enumerate(nodes):
        needed = {makers[name] for name in _read(node) if name in makers} - {index}
        waits.append(len(needed))
        for maker in needed:
            readers[maker].append(index)
    ready = [index for index, count in enumerate(waits) if count == 0]
    order = []
    while ready:  # a heap: the first in the file goes first
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waits[reader] -= 1
            if waits[reader] == 0:
                heapq.heappush(ready, reader)
    return order + [index for index, count in enumerate(waits) if count > 0]


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node reads, those that its subgraphs read from outside among them."""
    yield from node.input
    for body in _bodies(node):
        for inner in body.node:
            yield from _read(inner)
        yield from (value.name for value in body.output)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
