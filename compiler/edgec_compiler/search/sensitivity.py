"""What each layer of a model has to do with the loss of a precision: `edgec sensitivity`.

Three passes, the cheap one first, so that a large model gets an answer in bounded time:

1. every layer: how much of its channels one scale is expected to drown (`suspicion`);
2. the worst of these: the error of the model's outputs when this layer alone is quantised;
3. the worst of those first: accuracy, or agreement, with this layer alone quantised ("on") and with
   all but this layer quantised ("off").

The last pass looks for the least number of layers in float that keeps the budget, and tries it.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgec_compiler.errors import CompilerError, UsageError
from edgec_compiler.options import DEFAULT_MAX_DROP, CompileOptions
from edgec_compiler.planning import Plan
from edgec_compiler.precisions import needs_calibration
from edgec_compiler.quantise.layers import as_options
from edgec_compiler.recipe import Recipe
from edgec_compiler.search.bench import Bench, Lab, Trial
from edgec_compiler.search.deciding import Judged, Rank, Space, choose, next_step
from edgec_compiler.search.ranking import Ranked, rank_layers, shares

_FOUND = 24  # candidates for the options to paste


@dataclass(frozen=True, slots=True)
class _Sweep:
    """One sensitivity analysis."""

    bench: Bench
    recipe: Recipe
    limit: float
    end: float | None  # time.monotonic() at which no further layer is begun
    tell: Callable[[str], None]

    def loss(self, trial: Trial) -> float:
        """Return how much worse than the source model a variant is."""
        accuracy = self.bench.lab.expected.accuracy
        if accuracy is not None and trial.accuracy is not None:
            return accuracy - trial.accuracy
        return 1 - trial.agreement

    def go_on(self) -> bool:
        """Return whether there is time for another layer."""
        return self.end is None or time.monotonic() < self.end

    def judged(self, ranked: Sequence[Ranked]) -> dict[str, dict[str, Any]]:
        """Return what quantising each layer alone, and all but it, does."""
        names = [one.layer.name for one in ranked]
        measured = [one for one in ranked if one.error is not None]
        started, found = time.monotonic(), {}
        for number, one in enumerate(measured):
            if not self.go_on():
                break
            left = (time.monotonic() - started) / max(number, 1) * (len(measured) - number)
            eta = f", about {left:.0f} s left" if number else ""
            self.tell(f"layer {number + 1} of {len(measured)} on and off{eta}")
            name = one.layer.name
            rest = tuple(sorted(other for other in names if other != name))
            found[name] = {"on": self._facts(rest), "off": self._facts((name,))}
        return found

    def _facts(self, float_layers: tuple[str, ...]) -> dict[str, Any] | None:
        trial = self.bench.judge(replace(self.recipe, float_layers=float_layers))
        return None if trial.refused is not None else self.row(trial)

    def row(self, trial: Trial) -> dict[str, Any]:
        """Return a variant's figures."""
        return {
            "accuracy": trial.accuracy,
            "agreement": trial.agreement,
            "drop": round(self.loss(trial), 12),
            "bytes": trial.bytes,
        }

    def suggestion(self, order: Sequence[str]) -> dict[str, Any] | None:
        """Return the least number of layers in float that keeps the budget, as it was tried."""
        space = Space(
            plain=(self.recipe,),
            limit=self.limit,
            integers=frozenset({self.recipe.precision}),
            mixable=True,
            ranked={self.recipe.precision: tuple(order)},
            costs={self.recipe.precision: 1.0, "fp32": 2.0},
            shares=shares(self.bench.layers(), of_weights=False),
            most=_FOUND,
        )
        known: dict[Recipe, Judged] = {}
        while (step := next_step(space, known)) is not None and not isinstance(step, Rank):
            self.tell(f"try {step.words()}")
            trial = self.bench.judge(step)
            loss = float("inf") if trial.refused else self.loss(trial)
            known[step] = Judged(step, space.cost(step), trial.bytes, loss, trial.refused)
        chosen = choose(space, known.values())
        if chosen is None:
            return None
        layers = chosen.recipe.float_layers
        words = [f"--precision {self.recipe.precision}", as_options(layers)]
        return {
            "options": " ".join(word for word in words if word),
            "float_layers": list(layers),
            **self.row(self.bench.judge(chosen.recipe)),
        }


def sweep(
    lab: Lab, options: CompileOptions, one: Plan, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Return the sensitivity of every layer for one target, as `--json` prints it.

    Raises:
        UsageError: the target or the model has nothing to quantise.
        CompilerError: the model cannot be converted or quantised at all.
    """
    bench = Bench(lab, one.profile, one.format)
    recipe = replace(one.recipe, precision=_precision(one, options))
    # Layers can be told apart only where the others compute in float, as no integer target does.
    floats = bench.at(replace(one.profile, full_integer=False))
    if not floats.layers():
        raise UsageError(f"{options.model}: this model keeps its own quantisation")
    drop = options.max_accuracy_drop
    end = None if options.search_budget is None else time.monotonic() + options.search_budget
    run = _Sweep(floats, recipe, DEFAULT_MAX_DROP if drop is None else drop, end, tell)
    tell(f"all layers at {recipe.precision}")
    whole = bench.judge(recipe)
    if whole.refused is not None:
        raise CompilerError(whole.refused)

    def ranking(number: int, count: int) -> None:
        tell(f"layer {number} of {count}: error of the outputs")

    ranked = rank_layers(floats, recipe, options.max_layers, run.go_on, ranking)
    judged = run.judged(ranked)
    rows = _sorted([_layer(entry, judged.get(entry.layer.name)) for entry in ranked])
    cut = not run.go_on()
    suggestion = None
    if not one.profile.full_integer:
        suggestion = run.suggestion([row["layer"] for row in rows if row["sqnr_db"] is not None])
    return {
        "target": one.profile.name,
        "format": one.format,
        **recipe.to_dict(),
        "judged_by": "agreement" if lab.expected.accuracy is None else "accuracy",
        "max_accuracy_drop": run.limit,
        "source_accuracy": lab.expected.accuracy,
        "samples": lab.expected.samples,
        "data": lab.evaluation.origin,
        "all": run.row(whole),
        "layers": rows,
        "measured": sum(row["on"] is not None for row in rows),
        "stopped": "time" if cut else None,
        "suggestion": suggestion,
    }


def _precision(one: Plan, options: CompileOptions) -> str:
    if needs_calibration(one.recipe.precision, one.format):
        return one.recipe.precision
    integers = [p for p in one.profile.precisions if needs_calibration(p, one.format)]
    if options.precision != "auto" or not integers:
        raise UsageError(
            f"target {one.profile.name}: sensitivity is about integer precisions; it has "
            f"{', '.join(integers) or 'none'}"
        )
    return integers[0]


def _layer(one: Ranked, judged: Mapping[str, Any] | None) -> dict[str, Any]:
    layer = one.layer
    return {
        "layer": layer.name,
        "op": layer.op,
        "weights": layer.weights,
        "macs": layer.macs,
        "suspicion": round(one.suspicion, 6),
        "sqnr_db": None if one.sqnr_db is None else round(one.sqnr_db, 3),
        "on": None if judged is None else judged["on"],
        "off": None if judged is None else judged["off"],
    }


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the layers, those first whose quantisation alone loses most."""

    def key(row: Mapping[str, Any]) -> tuple[bool, float, float, float]:
        on, sqnr = row["on"], row["sqnr_db"]
        return (
            sqnr is None,
            0.0 if on is None else -on["drop"],
            float("inf") if sqnr is None else sqnr,
            -row["suspicion"],
        )

    return sorted(rows, key=key)
