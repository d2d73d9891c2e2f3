"""Which of the operators that an accelerator could take it really gets.

An accelerator that is called through one delegate node takes one region of the model. Regions are
formed as TFLite's own partitioner forms them (tensorflow/lite/graph_info.cc,
PartitionGraphIntoIndependentNodeSubsets): starting with the first operator, everything of its kind
(accelerated or not) whose inputs are already there is collected, then everything of the other kind,
and so on. The first collection of accelerated operators is the region: nothing in it needs what is
computed behind it, operators before it may run on the CPU, and branches that do not depend on a
refused operator stay in it.
"""

from collections.abc import Callable, Sequence

from edgec_compiler.mapping.graph import ModelGraph


def first_region(graph: ModelGraph, supported: Sequence[bool]) -> frozenset[int]:
    """Return the indices of the operators of the one region.

    Args:
        graph: a model's operators and tensors.
        supported: by index, whether the accelerator takes the operator.
    """
    ready = _Ready(graph)
    first = ready.first()
    if first is not None and not supported[first]:
        ready.take(lambda index: not supported[index])
    return frozenset(ready.take(lambda index: supported[index]))


class _Ready:
    """Operators whose inputs are all there; taking one makes its outputs there."""

    def __init__(self, graph: ModelGraph) -> None:
        self._operators = graph.operators
        made = {tensor for operator in graph.operators for tensor in operator.outputs}
        self._readers: dict[int, list[int]] = {tensor: [] for tensor in made}
        self._missing = [0] * len(graph.operators)
        for index, operator in enumerate(graph.operators):
            for tensor in set(operator.inputs) & made:
                self._readers[tensor].append(index)
                self._missing[index] += 1
        self._ready = {index for index, missing in enumerate(self._missing) if not missing}

    def first(self) -> int | None:
        """Return the first operator of the file that is ready."""
        return min(self._ready, default=None)

    def take(self, wanted: Callable[[int], bool]) -> list[int]:
        """Take every wanted operator that is ready or becomes so; return their indices."""
        taken: list[int] = []
        waiting = [index for index in self._ready if wanted(index)]
        while waiting:
            index = waiting.pop()
            self._ready.discard(index)
            taken.append(index)
            for tensor in self._operators[index].outputs:
                for reader in self._readers[tensor]:
                    self._missing[reader] -= 1
                    if self._missing[reader] == 0:
                        self._ready.add(reader)
                        waiting += [reader] if wanted(reader) else []
        return taken
