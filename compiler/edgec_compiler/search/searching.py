"""Runs the search for one target: judges what `deciding` asks for, until it has chosen."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgec_compiler.errors import ConversionError, NotAchievedError
from edgec_compiler.judging import Verdict
from edgec_compiler.precisions import needs_calibration
from edgec_compiler.quantise.layers import as_options
from edgec_compiler.recipe import METHODS, Recipe
from edgec_compiler.search.bench import Bench, Trial
from edgec_compiler.search.deciding import (
    Judged,
    Rank,
    Space,
    at_most,
    best_of,
    choose,
    front,
    next_step,
)
from edgec_compiler.search.ranking import Ranked, rank_layers, shares
from edgec_compiler.variants import Variant

MOST_RANKED = 16  # layers measured in a search
_BLAMED = 5  # layers named in a message


@dataclass(frozen=True, slots=True)
class Goal:
    """What a search is for."""

    recipes: tuple[Recipe, ...]  # the plain one of each precision, the most promising first
    limit: float
    by_accuracy: bool  # else by agreement with the source model
    source_accuracy: float | None
    optimize_for: str  # "speed" | "size"
    mixable: bool  # the target computes in float too
    tunable: bool  # other calibration methods and corrections may be tried
    most: int
    most_bytes: int | None
    seconds: float | None  # None: no limit


@dataclass(frozen=True, slots=True)
class Found:
    """What a search chose, and all that it tried."""

    recipe: Recipe
    variant: Variant
    verdict: Verdict
    facts: Mapping[str, Any] | None  # the Pareto table, if there was anything to choose from


class BudgetMissedError(NotAchievedError):
    """No candidate keeps the budget.

    Attributes:
        best: the one that loses least, as a row of the Pareto table; None if all were refused.
        blame: the layers that lose most, the worst first, and the options that keep them in float.
        search: the Pareto table.
    """

    def __init__(
        self,
        message: str,
        best: Mapping[str, Any] | None,
        blame: Sequence[Mapping[str, Any]],
        search: Mapping[str, Any],
    ) -> None:
        super().__init__(message)
        self.best, self.blame, self.search = best, tuple(blame), search


def search(bench: Bench, goal: Goal, tell: Callable[[str], None]) -> Found:
    """Return the best candidate that keeps the budget.

    Raises:
        BudgetMissedError: there is none, or the time ran out before one was found.
        ConversionError: every candidate was refused.
        UsageError: a layer that shall stay in float is not there.
    """
    run = _Search(bench, goal, tell, _space(bench, goal))
    run.run()
    chosen = choose(run.space, run.known.values())
    if chosen is None:
        raise run.failure()
    trial, lab = run.trials[chosen.recipe], bench.lab
    verdict = Verdict(
        lab.expected.accuracy,
        trial.accuracy,
        trial.agreement,
        lab.expected.samples,
        lab.evaluation.origin,
    )
    facts = run.facts(chosen) if at_most(run.space) > 1 else None
    return Found(chosen.recipe, bench.variant(chosen.recipe), verdict, facts)


def _space(bench: Bench, goal: Goal) -> Space:
    by_size = goal.optimize_for == "size"
    precisions = [recipe.precision for recipe in goal.recipes]
    ranks = {precision: float(place) for place, precision in enumerate(precisions, 1)}
    return Space(
        plain=goal.recipes,
        limit=goal.limit,
        integers=frozenset(p for p in precisions if needs_calibration(p, bench.format)),
        methods=METHODS if goal.tunable else (),
        corrections=goal.tunable,
        equalisable=bench.lab.forms.source.module is not None,
        mixable=goal.mixable,
        costs={"fp32": bench.float_bytes()} if by_size else {"fp32": len(ranks) + 1.0, **ranks},
        shares=shares(bench.layers(), of_weights=by_size),
        most=goal.most,
        most_bytes=goal.most_bytes,
        int4_with_int8=by_size and bench.format == "tflite" and {"int4", "int8"} <= set(precisions),
        by_size=by_size,
    )


class _Search:
    """One search under way."""

    def __init__(self, bench: Bench, goal: Goal, tell: Callable[[str], None], space: Space) -> None:
        self.bench, self.goal, self.tell, self.space = bench, goal, tell, space
        self.known: dict[Recipe, Judged] = {}
        self.trials: dict[Recipe, Trial] = {}
        self.estimates: dict[Recipe, float | None] = {}
        self.ranked: tuple[Ranked, ...] = ()
        self.stopped: str | None = None
        self._end = math.inf if goal.seconds is None else time.monotonic() + goal.seconds

    def run(self) -> None:
        """Judge until nothing is left to try, or the time is over."""
        while (step := next_step(self.space, self.known)) is not None:
            if best_of(self.known.values()) and self._lost_before() > self.goal.limit:
                self.stopped = "compression"  # no way of quantising brings back what is lost
                return
            if isinstance(step, Rank):
                self._rank(step.recipe)
            elif time.monotonic() < self._end or self.bench.is_known(step):
                self._judge(step)
            else:
                self.stopped = "time"
                return
        if self.stopped is None and self._wants_more():
            self.stopped = "candidates"

    def _wants_more(self) -> bool:
        return next_step(replace(self.space, most=len(self.known) + 1), self.known) is not None

    def _judge(self, recipe: Recipe) -> None:
        number = f"candidate {len(self.known) + 1} of at most {at_most(self.space)}"
        self.tell(f"{number}: {recipe.words()}")
        trial = self.bench.judge(recipe)
        if trial.refused is None and self.space.by_size:
            trial = self.bench.shipped(recipe, trial)
        self.trials[recipe] = trial
        if trial.refused is None:
            self.estimates[recipe] = self.bench.estimate_ms(recipe)
        cost = float(trial.bytes) if self.space.by_size else self.space.cost(recipe)
        loss = math.inf if trial.refused else self._loss(trial)
        self.known[recipe] = Judged(recipe, cost, trial.bytes, loss, trial.refused)

    def _loss(self, trial: Trial) -> float:
        if self.goal.by_accuracy:
            return (self.goal.source_accuracy or 0.0) - (trial.accuracy or 0.0)
        return 1 - trial.agreement

    def _rank(self, recipe: Recipe) -> None:
        """Let the layers be ranked, as far as the time allows."""

        def tell(number: int, count: int) -> None:
            self.tell(f"layer {number} of {count}: how much it loses alone")

        def go_on() -> bool:
            if time.monotonic() >= self._end:
                self.stopped = "time"
            return self.stopped != "time"

        # Where the target has no floats, layers are ranked as if it had.
        floats = self.bench.at(replace(self.bench.profile, full_integer=False))
        self.ranked = rank_layers(floats, recipe, MOST_RANKED, go_on, tell)
        widens = self.space.widens(recipe.precision)  # which only weights can be
        lossy = [one.layer for one in self.ranked if one.error != 0.0]
        names = tuple(layer.name for layer in lossy if layer.weights or not widens)
        ranked = {**self.space.ranked, recipe.precision: names}
        self.space = replace(self.space, ranked=ranked)

    def facts(self, chosen: Judged | None) -> dict[str, Any]:
        """Return the Pareto table with what belongs to it."""
        best = front(list(self.known.values()))
        rows = [self._row(one, one in best, one == chosen) for one in self.known.values()]
        return {
            "optimize_for": self.goal.optimize_for,
            "judged_by": "accuracy" if self.goal.by_accuracy else "agreement",
            "max_accuracy_drop": self.goal.limit,
            "stopped": self.stopped,
            "candidates": rows,
        }

    def _row(self, judged: Judged, on_front: bool, chosen: bool) -> dict[str, Any]:
        trial = self.trials[judged.recipe]
        made = trial.refused is None
        return {
            **judged.recipe.to_dict(),
            "bytes": trial.bytes if made else None,
            "accuracy": trial.accuracy,
            "agreement": trial.agreement if made else None,
            "drop": judged.loss if made else None,
            "cost": round(judged.cost, 6),
            "estimate_ms": self.estimates.get(judged.recipe),
            "front": on_front,
            "chosen": chosen,
            "refused": trial.refused,
        }

    def failure(self) -> NotAchievedError | ConversionError:
        """Return why nothing was chosen, with the best and the layers to blame."""
        best = best_of(self.known.values())
        if best is None:
            reasons = [trial.refused for trial in self.trials.values() if trial.refused]
            return ConversionError(reasons[0] if reasons else "there was no time for a candidate")
        row = self._row(best, on_front=True, chosen=False)
        blamed = [one for one in self.ranked if one.error][:_BLAMED]
        if self._lost_before() > self.goal.limit:
            blamed = []
        elif not blamed and self.stopped != "time":
            blamed = self._blame(best.recipe)
        return BudgetMissedError(
            self._message(best, [one.layer.name for one in blamed]),
            row,
            [self._blamed(one) for one in blamed],
            self.facts(None),
        )

    def _blame(self, recipe: Recipe) -> list[Ranked]:
        if recipe.precision not in self.space.integers:
            return []
        self._rank(recipe)
        kept = set(recipe.float_layers)
        return [one for one in self.ranked if one.error and one.layer.name not in kept][:_BLAMED]

    def _blamed(self, one: Ranked) -> dict[str, Any]:
        name, floats = one.layer.name, not self.bench.profile.full_integer
        option = as_options([name]) if floats else None
        return {"layer": name, "op": one.layer.op, "sqnr_db": one.sqnr_db, "option": option}

    def _message(self, best: Judged, blamed: Sequence[str]) -> str:
        goal, trial = self.goal, self.trials[best.recipe]
        least = min(one.bytes for one in self.known.values() if one.refused is None)
        if goal.most_bytes is not None and least > goal.most_bytes:
            return (
                f"{self.bench.profile.name}: the model has {least} bytes, the device "
                f"{goal.most_bytes} bytes of memory: lower the --precision or make the model "
                "smaller"
            )
        if goal.by_accuracy:
            before, after = goal.source_accuracy or 0.0, trial.accuracy or 0.0
            what = f"accuracy falls from {before:.4f} to {after:.4f}, by {best.loss:.4f}"
        else:
            what = f"agrees with the source model on {trial.agreement:.4f} only"
        count = len(self.known)
        which = f"the best of {count} candidates, {best.recipe.words()}: " if count > 1 else ""
        said = [f"{self.bench.profile.name}: {which}{what}; allowed is {goal.limit:g}"]
        if self.stopped == "time":
            said.append("The --search-budget is over: run again to go on where it stopped")
        elif self.stopped == "candidates":
            said.append("--max-candidates ended the search: give more")
        return ". ".join([*said, *self._advice(blamed)])

    def _advice(self, blamed: Sequence[str]) -> list[str]:
        """Return what to try, `blamed` being the layers that lose most."""
        if (lost := self._lost_before()) > self.goal.limit:
            return [
                f"Compression alone loses {lost:.4f}, before any quantisation: compress less, "
                "train longer (--recover-epochs, more --calibration data, --fine-tune), or allow a "
                "larger --max-accuracy-drop"
            ]
        said = []
        if blamed and self.bench.profile.full_integer:
            said.append(
                f"To blame are layers {', '.join(blamed)}: the target computes integers only, so "
                "replace them in the model or train it for int8"
            )
        elif blamed:
            said.append(f"Layers to blame, as options to paste: {as_options(blamed)}")
        said.append(
            "Else try another --precision, more or better --calibration data, or a larger "
            "--max-accuracy-drop"
        )
        return said

    def _lost_before(self) -> float:
        """Return what compression had lost, in float, when quantisation began."""
        quality = ((self.bench.lab.forms.compression or {}).get("quality") or {}).get("compressed")
        if quality is None:
            return 0.0
        if self.goal.by_accuracy:
            return float((self.goal.source_accuracy or 0.0) - (quality["accuracy"] or 0.0))
        return float(1 - quality["agreement"])
