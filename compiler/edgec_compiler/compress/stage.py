"""The compression stage: prune, train, cluster, train for integers; what was asked for, in order.

The source's graph after the passes goes in; one that takes and gives the same tensors comes out,
smaller or easier to store. The teacher of all training is the source's graph.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from edgec_compiler.compress import counting, sparsity
from edgec_compiler.compress.clustering import cluster
from edgec_compiler.compress.constants import values_of
from edgec_compiler.compress.facts import compared, sizes
from edgec_compiler.compress.lessons import TrainingData, heads
from edgec_compiler.compress.structured import can_lose_channels, prune_channels
from edgec_compiler.compress.student import capture_student
from edgec_compiler.compress.trainable import Trainable
from edgec_compiler.compress.training import (
    CENTROIDS,
    DISTIL,
    QAT,
    RECOVER,
    Trainer,
)
from edgec_compiler.compress.user_code import make_student
from edgec_compiler.compress.wanted import Wanted
from edgec_compiler.compress.weights import Masked, OnGrid, learnable, matrices
from edgec_compiler.errors import NotAchievedError
from edgec_compiler.interface import Interface
from edgec_compiler.passes.graph import Example, copied, observe

Quality = Callable[[fx.GraphModule], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the stage is given besides the graph."""

    wanted: Wanted
    interface: Interface
    example: Example
    data: TrainingData | None
    weight_bits: int  # of the integers to train for
    rounds_activations: bool  # to 8 bits, when trained for integers
    per_channel: bool  # all targets quantise weights per channel: cluster what they will store
    seed: int
    say: Callable[[str], None]
    quality: Quality | None  # {"accuracy", "agreement"} of a graph on the evaluation data


@dataclass(frozen=True, slots=True)
class Compressed:
    """The graph, and what report.json says of how it came about."""

    graph: fx.GraphModule
    facts: Mapping[str, Any]


def compress(graph: fx.GraphModule, given: Surroundings) -> Compressed:
    """Return a compressed graph for `graph`, which stays as it is.

    Raises:
        UsageError: the student's outputs are not the source's.
        TrainingError: the user's code fails.
        NotAchievedError: training diverges, or there is nothing to prune.
    """
    observe(graph, given.example)
    return _Stage(graph, given).run()


class _Stage:
    """One run of the stage."""

    def __init__(self, source: fx.GraphModule, given: Surroundings) -> None:
        self.source, self.given, self.wanted = source, given, given.wanted
        teacher = Trainable(source, {}).eval()
        kinds = heads(source, given.interface)
        self.trainer = Trainer(
            given.wanted, teacher, given.data, kinds, counting.macs(source), given.seed, given.say
        )
        self.facts: dict[str, Any] = {"requested": self.wanted.to_dict()}
        self.kept: list[str] = []

    def run(self) -> Compressed:
        graph = self._student() if self.wanted.distill else self._copy()
        masks = self._prune(graph)
        quality = {"untrained": self._quality(graph, masks)}
        graph = self._train(graph, masks)
        observe(graph, self.given.example)
        quality["compressed"] = self._quality(graph, {})
        if self.wanted.control and self.trainer.able:
            quality["control"] = self._control()
        self._note(graph, quality)
        return Compressed(graph, self.facts)

    def _copy(self) -> fx.GraphModule:
        graph = copied(self.source)
        observe(graph, self.given.example)
        return graph

    def _student(self) -> fx.GraphModule:
        named = str(self.wanted.distill)
        self.given.say(f"distillation: {named}")
        student = make_student(named, self.given.seed, self.given.say)
        outputs = [node.meta for node in self._results(self.source)]
        graph = capture_student(
            named, student, self.given.example, outputs, lambda m: self.trainer.train(m, DISTIL)
        )
        observe(graph, self.given.example)
        return graph

    @staticmethod
    def _results(graph: fx.GraphModule) -> list[fx.Node]:
        made: Any = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        return list(made) if isinstance(made, tuple | list) else [made]

    def _nothing_pruned(self, graph: fx.GraphModule, ratio: float) -> NotAchievedError:
        """Return that no channel can go, and what would help."""
        more, why = "ask for more, or for", f"({'; '.join(self.kept)})"
        if not can_lose_channels(graph):
            more, why = "ask for", f"at this or any other share {why}"
        return NotAchievedError(
            f"--prune {ratio:g}: no channel can go {why}: {more} --prune-pattern unstructured"
        )

    def _prune(self, graph: fx.GraphModule) -> sparsity.Masks:
        """Remove channels in place, or return masks."""
        ratio, pattern = self.wanted.prune, self.wanted.pattern
        if ratio is None:
            return {}
        self.given.say(f"prune ({pattern})")
        before = counting.parameters(graph)
        if pattern == "structured":
            self.kept += prune_channels(graph, self.given.example, ratio)
            if counting.parameters(graph) == before:
                raise self._nothing_pruned(graph, ratio)
            return {}
        found = matrices(graph)
        values = values_of(graph)
        if pattern == "unstructured":
            return sparsity.by_magnitude(found, values, ratio)
        masks, left = sparsity.two_of_four(found, values)
        if left:
            self.kept.append(
                f"{len(left)} layer{'s' if len(left) > 1 else ''} kept dense: grouped, or with "
                "input channels that are no multiple of 4"
            )
        return masks

    def _train(self, graph: fx.GraphModule, masks: sparsity.Masks) -> fx.GraphModule:
        names, values = dict.fromkeys((*learnable(graph), *masks)), values_of(graph)
        student = Trainable(graph, {name: Masked(values[name], masks.get(name)) for name in names})
        fine_tuned_only = self.wanted.fine_tune and not (self.wanted.cluster or self.wanted.qat)
        if self.wanted.prune or fine_tuned_only:
            self.trainer.train(student, RECOVER)
        if self.wanted.cluster:
            student = self._cluster(student, masks)
            self.trainer.train(student, CENTROIDS)
        if self.wanted.qat:
            axes = {matrix.name: matrix for matrix in matrices(graph)}
            student = Trainable(graph, self._on_grid(student, axes))
            student.rounds = self.given.rounds_activations
            self.trainer.train(student, QAT)
        return student.bake()

    def _cluster(self, student: Trainable, masks: sparsity.Masks) -> Trainable:
        self.given.say(f"cluster ({self.wanted.cluster} values per layer)")
        forms, count = student.forms(), int(self.wanted.cluster or 0)
        for number, matrix in enumerate(matrices(student.graph)):
            weight = forms[matrix.name]().detach()
            axis = matrix.output_axis if self.given.per_channel else None
            seed = self.given.seed + number
            forms[matrix.name] = cluster(weight, count, seed, axis, keep_zeros=matrix.name in masks)
        return Trainable(student.graph, forms)

    def _on_grid(self, student: Trainable, axes: Mapping[str, Any]) -> dict[str, nn.Module]:
        forms = {}
        for name, form in student.forms().items():
            matrix = axes.get(name)
            if matrix is not None:
                bits = 8 if matrix.grouped else self.given.weight_bits
                form = OnGrid(form, bits, matrix.output_axis)
            forms[name] = form
        return forms

    def _control(self) -> Mapping[str, Any] | None:
        """Return how good the uncompressed model is after the same training."""
        self.given.say("control: the uncompressed model, trained alike")
        graph = self._copy()
        values = values_of(graph)
        student = Trainable(graph, {n: Masked(values[n]) for n in learnable(graph)})
        phases = [RECOVER] if self.wanted.prune or self.wanted.fine_tune else []
        phases += [CENTROIDS] if self.wanted.cluster else []
        phases += [QAT] if self.wanted.qat else []
        for phase in [DISTIL] if self.wanted.distill else phases:
            self.trainer.train(student, phase, note=False)
        return self._quality(student.bake(), {})

    def _quality(self, graph: fx.GraphModule, masks: sparsity.Masks) -> Mapping[str, Any] | None:
        if self.given.quality is None:
            return None
        if masks:
            graph = copied(graph)
            observe(graph, self.given.example)
            values = values_of(graph)
            forms = {name: Masked(values[name], mask) for name, mask in masks.items()}
            graph = Trainable(graph, forms).bake()
        return self.given.quality(graph)

    def _note(self, graph: fx.GraphModule, quality: Mapping[str, Any]) -> None:
        trained = self.trainer.phases
        self.facts |= sizes(self.source, graph)
        self.facts |= {
            "training": trained,
            "quality": dict(quality) if self.given.quality is not None else None,
            "compared": compared(self.wanted, trained, control="control" in quality),
            "kept": self.kept,
        }
