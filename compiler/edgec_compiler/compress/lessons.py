"""What training has to go by: prepared samples, the kind of each output, and the loss.

The teacher labels everything, so no labels are needed; half of each batch are mixtures of two
samples, which it labels as well (Beyer et al. 2021, arXiv:2106.05237: a teacher is to be consistent
on what the student sees; mixtures make much of few samples).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from edgec_compiler.interface import Interface
from edgec_compiler.samples import Samples, feeds
from edgec_compiler.source import SourceModel
from edgec_runtime.session import Array

MAX_BYTES = 1 << 29  # of prepared samples kept in memory; more are left out, evenly
HELD_OUT = 0.2
_TEMPERATURE = 2.0
_SCORES = ("probabilities", "logits", "scores")
_A = torch.ops.aten

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Prepared model inputs, [N, ...] each, and class labels [N] if there are any."""

    inputs: Tensors
    labels: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def rows(self, which: torch.Tensor) -> "TrainingData":
        """Return the rows `which`."""
        labels = None if self.labels is None else self.labels[which]
        return TrainingData(tuple(x[which] for x in self.inputs), labels)

    def parted(self, seed: int) -> tuple["TrainingData", "TrainingData"]:
        """Return what to train on, and what is held out to see when to stop."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        out = max(1, round(HELD_OUT * len(self))) if len(self) > 1 else 0
        return self.rows(order[out:]), self.rows(order[:out] if out else order)

    def singly(self, most: int) -> Iterator[Tensors]:
        """Yield at most `most` single rows, [1, ...] each."""
        for i in range(min(most, len(self))):
            yield tuple(x[i : i + 1] for x in self.inputs)


def prepare(samples: Samples, source: SourceModel, interface: Interface) -> TrainingData:
    """Return `samples` as the source model's inputs, as many as fit in `MAX_BYTES`."""
    names = [tensor.name for tensor in source.inputs]
    each = sum(
        int(np.prod(tensor.shape[1:])) * np.dtype(tensor.dtype).itemsize for tensor in source.inputs
    )
    every = max(1, -(-len(samples.data) * max(each, 1) // MAX_BYTES))
    kept: list[list[Array]] = [[] for _ in names]
    for number, feed in enumerate(feeds(samples, interface, names)):
        if number % every == 0:
            for column, name in zip(kept, names, strict=True):
                column.append(feed[name])
    inputs = tuple(torch.from_numpy(np.concatenate(column)) for column in kept)
    return TrainingData(inputs, _labels(samples, every))


def _labels(samples: Samples, every: int) -> torch.Tensor | None:
    labels = samples.data.labels
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return None
    return torch.from_numpy(labels[::every].astype(np.int64))


def heads(graph: fx.GraphModule, interface: Interface) -> tuple[str, ...]:
    """Return what each output of `graph` is: "probabilities", "logits" or "values"."""
    output = next(node for node in graph.graph.nodes if node.op == "output")
    made: Any = output.args[0]
    nodes = made if isinstance(made, tuple | list) else (made,)
    public = interface.outputs if len(interface.outputs) == len(nodes) else (None,) * len(nodes)
    softmax = any(step["op"] == "softmax" for step in interface.postprocessing)
    found = []
    for node, spec in zip(nodes, public, strict=True):
        shape = node.meta["shape"]
        classes = len(shape) == 2 and shape[1] > 1 and node.meta["dtype"].is_floating_point
        said = spec.meaning if spec is not None else None
        if classes and str(node.target).startswith(("aten.softmax", "aten._softmax")):
            found.append("probabilities")
        elif classes and (said in _SCORES or said is None or softmax):
            found.append("logits")
        else:
            found.append("values")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Loss:
    """How far a student is from its teacher, and from the labels where there are some.

    Per float output: the mean squared error in the teacher's variances; and for class scores the
    Kullback-Leibler divergence at temperature 2 (Hinton et al. 2015, arXiv:1503.02531, section 2).
    With labels, the cross entropy of the first class output is added, on rows that are no mixtures.
    """

    heads: tuple[str, ...]
    variances: tuple[float, ...]

    @classmethod
    def of(cls, found: tuple[str, ...], teacher: nn.Module, data: TrainingData) -> "Loss":
        """Return the loss for a teacher that knows outputs of kinds `found`."""
        variances = []
        for value in answers(teacher, data.inputs):
            spread = float(value.float().var()) if value.numel() > 1 else 1.0
            variances.append(max(spread, 1e-12))
        return cls(found, tuple(variances))

    def __call__(
        self,
        student: Tensors,
        teacher: Tensors,
        labels: torch.Tensor | None,
        pure: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the loss, a scalar; labels that are classes count for rows that are `pure`."""
        total = student[0].new_zeros(()) if student[0].is_floating_point() else torch.zeros(())
        for kind, spread, own, wanted in zip(
            self.heads, self.variances, student, teacher, strict=True
        ):
            if not own.is_floating_point():
                continue
            total = total + (own - wanted).pow(2).mean() / spread
            if kind != "values":
                total = total + _divergence(_scores(own, kind), _scores(wanted, kind))
        place = next((i for i, kind in enumerate(self.heads) if kind != "values"), None)
        if labels is not None and place is not None:
            scores = _scores(student[place], self.heads[place])
            rows = (labels >= 0) & (labels < scores.shape[1])
            rows = rows if pure is None else rows & pure
            if rows.any():
                total = total + functional.cross_entropy(scores[rows], labels[rows])
        return total


def _scores(value: torch.Tensor, kind: str) -> torch.Tensor:
    return value.clamp_min(1e-7).log() if kind == "probabilities" else value


def _divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    wanted = functional.log_softmax(teacher / _TEMPERATURE, dim=-1)
    found = functional.log_softmax(student / _TEMPERATURE, dim=-1)
    both = functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return both * _TEMPERATURE**2


def tensors(made: Any) -> Tensors:
    """Return a module's outputs as a tuple."""
    return tuple(made) if isinstance(made, tuple | list) else (made,)


def answers(module: nn.Module, inputs: Tensors, batch: int = 64) -> Tensors:
    """Return what `module` makes of all rows, without gradients."""
    with torch.no_grad():
        made = [
            tensors(module(*(x[i : i + batch] for x in inputs)))
            for i in range(0, len(inputs[0]), batch)
        ]
    return tuple(torch.cat(parts) for parts in zip(*made, strict=True))
