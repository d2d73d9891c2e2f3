"""Says for every operator of a model where a target runs it, and why not on its accelerator."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgec_compiler.mapping.graph import ModelGraph
from edgec_compiler.mapping.regions import first_region
from edgec_compiler.mapping.rules import Refusal, judge
from edgec_hardware_profiles import Profile, Support

_REGISTERED = ("TFLite_Detection_PostProcess",)  # custom operators that LiteRT itself brings


@dataclass(frozen=True, slots=True)
class OperatorVerdict:
    """Where one operator runs."""

    index: int
    op: str
    output: str
    on: str  # "npu" | "gpu" | "cpu"
    reason: str | None = None
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Mapping:
    """Where every operator of a model runs on one target."""

    target: str
    ops: tuple[OperatorVerdict, ...]
    basis: str  # "predicted" by the profile's table | "compiled" by the vendor's own compiler
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """How many operators the model's file has."""
        return len(self.ops)

    @property
    def accelerated(self) -> int:
        """How many of them do not run on the CPU."""
        return sum(verdict.on != "cpu" for verdict in self.ops)

    def to_json(self) -> dict[str, Any]:
        """Return the object that `edgec check --json` prints."""
        return {
            "target": self.target,
            "total": self.total,
            "accelerated": self.accelerated,
            "basis": self.basis,
            "notes": list(self.notes),
            "ops": [asdict(verdict) for verdict in self.ops],
        }


def check(graph: ModelGraph, profile: Profile) -> Mapping:
    """Return where `profile` runs each operator of `graph`, as its table predicts it."""
    support = profile.support
    if support is None:
        return Mapping(profile.name, tuple(_on_cpu(graph)), "predicted")
    refusals = [judge(graph, operator, support) for operator in graph.operators]
    if support.regions == "one":
        region = first_region(graph, [refusal is None for refusal in refusals])
        ends = _first_refused_above(graph, refusals)
        refusals = [
            refusal
            if refusal is not None or index in region
            else _outside(graph, index, ends[index], support)
            for index, refusal in enumerate(refusals)
        ]
    verdicts = tuple(
        OperatorVerdict(
            operator.index,
            operator.op,
            graph.output_name(operator),
            support.on if refusal is None else "cpu",
            None if refusal is None else refusal.reason,
            None if refusal is None else refusal.fix,
        )
        for operator, refusal in zip(graph.operators, refusals, strict=True)
    )
    return Mapping(profile.name, verdicts, "predicted")


def _on_cpu(graph: ModelGraph) -> list[OperatorVerdict]:
    """Return the verdicts of a target without an accelerator; custom operators need a kernel."""
    verdicts = []
    for operator in graph.operators:
        reason, fix = (None, None)
        if operator.facts.get("custom") is True and operator.op not in _REGISTERED:
            reason, fix = _custom(operator.op)
        name = graph.output_name(operator)
        verdicts.append(OperatorVerdict(operator.index, operator.op, name, "cpu", reason, fix))
    return verdicts


def _custom(op: str) -> tuple[str, str]:
    if op.startswith("Flex"):
        return (
            f"{op} needs TensorFlow itself, which no device has",
            "convert the model again without Select TF operators",
        )
    return (
        f"{op} is a custom operator: LiteRT has no kernel for it",
        "give the model without it, or the file that its accelerator's compiler was given",
    )


def _first_refused_above(graph: ModelGraph, refusals: Sequence[Refusal | None]) -> list[int | None]:
    """Return for each operator the first refused operator that it depends on."""
    ends: list[int | None] = []
    makers: dict[int, int] = {}
    for index, operator in enumerate(graph.operators):
        above = {makers[tensor] for tensor in operator.inputs if tensor in makers}
        found = [maker for maker in above if refusals[maker] is not None]
        found += [end for maker in above if (end := ends[maker]) is not None]
        ends.append(min(found, default=None))
        makers.update(dict.fromkeys(operator.outputs, index))
    return ends


def _outside(graph: ModelGraph, index: int, end: int | None, support: Support) -> Refusal:
    about = ", ".join(map(str, graph.results(graph.operators[index])[:1]))
    reason = f"{support.reasons['region']}: {about}"
    if end is None:
        return Refusal("region", reason, support.fixes.get("region"))
    op = graph.operators[end]
    behind = f"operator {end}, {op.op} making '{graph.output_name(op)}'"
    return Refusal(
        "region", f"{reason} is behind {behind}", f"first make {behind} run on the accelerator"
    )
