"""What report.json says of a compressed graph: sizes, sparsity, and what was compared with what."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from edgec_compiler.compress import counting
from edgec_compiler.compress.constants import values_of
from edgec_compiler.compress.wanted import Wanted
from edgec_compiler.compress.weights import matrices

JSON = dict[str, Any]


def sizes(source: fx.GraphModule, graph: fx.GraphModule) -> JSON:
    """Return parameters and multiply-accumulates before and after, and the shares that went.

    "achieved" are fractions 0..1: of parameters and multiply-accumulates that are gone from the
    graph, and of the remaining weights that are zero (which no dense runtime skips).
    """
    before, after = counting.parameters(source), counting.parameters(graph)
    macs_before, macs_after = counting.macs(source), counting.macs(graph)
    values = values_of(graph)
    weights = [values[matrix.name] for matrix in matrices(graph)]
    count = sum(weight.numel() for weight in weights)
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    return {
        "params": {"before": before, "after": after},
        "macs": {"before": macs_before, "after": macs_after},
        "achieved": {
            "params": _share(before - after, before),
            "macs": _share(macs_before - macs_after, macs_before),
            "zeros": _share(zeros, count),
        },
        "values_per_layer": max((len(torch.unique(weight)) for weight in weights), default=0),
    }


def compared(wanted: Wanted, phases: Sequence[Mapping[str, Any]], *, control: bool) -> str:
    """Return in words what the accuracies stand beside, so that nobody reads more into them."""
    if not phases:
        return "the compressed model, not trained, with the source model as given"
    taught = any(phase.get("labelled") or phase["by"] == "function" for phase in phases)
    told = "the compressed model, trained, with the source model as given, float against float"
    if control:
        return told + "; control is the source model after the same training"
    if taught and wanted:
        return told + (
            "; the source model was not trained further, and might gain from the same training: "
            "--control trains it alike"
        )
    return told


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0
