"""One architecture search: size all nets, refuse what does not fit, train by halving, keep one.

Nothing here runs the recipe's code; `children` does. Every result is in the ledger before the next
step, so an interrupted search goes on where it was.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec_compiler.architecture.candidates import (
    Candidate,
    Limits,
    Sizes,
    grid,
    pareto,
    without_twins,
)
from edgec_compiler.architecture.children import ask as ask_child
from edgec_compiler.architecture.halving import (
    affordable,
    epochs_of,
    promising,
    ranked,
    rounds,
    survivors,
)
from edgec_compiler.architecture.ledger import Ledger, Schedule, key_of
from edgec_compiler.errors import NotAchievedError, UsageError
from edgec_compiler.precisions import precision_for
from edgec_compiler.tools import tool_versions
from edgec_hardware_profiles import Profile, ProfileError, load

BUDGET = 200
NO_LIMITS = Limits()
Progress = Callable[[str], None]
Ask = Callable[[dict[str, Any]], Iterator[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What `edgec search` was asked for."""

    recipe: Path
    target: str
    out: Path
    limits: Limits = NO_LIMITS  # besides what the device itself has
    calibrated: bool = True  # the best net will be compiled with calibration data
    budget: int = BUDGET  # epochs, over all nets
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    best: Candidate
    score: float
    model: Path  # the best net as an exported program
    sizes: Mapping[Candidate, Sizes]
    scores: Mapping[Candidate, float]  # after the last epoch that each net was given
    epochs: Mapping[Candidate, int]  # that each net was given in all
    refused: Mapping[Candidate, str]
    front: frozenset[Candidate]  # no other net beats these in score, latency and size at once


class LimitsMissedError(NotAchievedError):
    """No net keeps the limits.

    Attributes:
        sizes: of the nets that could be compiled.
        refused: why each is out.
    """

    def __init__(
        self, message: str, sizes: Mapping[Candidate, Sizes], refused: Mapping[Candidate, str]
    ) -> None:
        super().__init__(message)
        self.sizes, self.refused = sizes, refused


def search(options: SearchOptions, progress: Progress, ask: Ask = ask_child) -> Found:
    """Return the best net of a recipe within the limits, trained and exported.

    Args:
        options: what to search.
        progress: is told each step.
        ask: runs the recipe's code.

    Raises:
        UsageError: an option or the recipe is wrong, or the limit needs rates that are missing.
        LimitsMissedError: no net of the recipe keeps the limits.
        NotAchievedError: training diverged for all of them.
    """
    profile = _profile(options)
    calibrated = options.calibrated
    precision, _ = precision_for(profile, profile.format, "auto", calibrated=calibrated)
    told = _only(ask({"recipe": str(options.recipe), "action": "describe"}))
    if options.budget < told["min_epochs"]:
        raise UsageError(
            f"--budget: expected {told['min_epochs']} epochs or more (MIN_EPOCHS of the recipe), "
            f"got {options.budget}"
        )
    limits = options.limits.within(profile)
    with closing(Ledger.opened(options.out, _key(options, profile, precision, told))) as ledger:
        run = _Search(options, limits, precision, ledger, progress, ask)
        over = run.size(grid(told["widths"], told["depths"]))
        return run.found(told["min_epochs"], over)


def _profile(options: SearchOptions) -> Profile:
    if not options.recipe.is_file():
        raise UsageError(f"{options.recipe}: no such file")
    if options.budget < 1:
        raise UsageError(f"--budget: expected 1 epoch or more, got {options.budget}")
    try:
        return load(options.target)
    except ProfileError as error:
        raise UsageError(f"--target: {error}") from error


def _only(answers: Any) -> dict[str, Any]:
    (answer,) = answers
    found: dict[str, Any] = answer
    return found


def _key(options: SearchOptions, profile: Profile, precision: str, told: Mapping[str, Any]) -> str:
    """Return the key of all that sizes and scores depend on: neither limits nor the budget."""
    facts = {
        "profile": repr(profile),
        "precision": precision,
        "seed": options.seed,
        "tools": tool_versions(),
    }
    return key_of(told["code"], facts)


@dataclass(slots=True)
class _Trained:
    """What successive halving came to."""

    scores: dict[Candidate, float]  # after the last epoch that each net was given
    epochs: dict[Candidate, int]
    last: dict[Candidate, float]  # of the last round
    diverged: dict[Candidate, str]
    schedule: Schedule = ()


@dataclass(frozen=True, slots=True)
class _Search:
    """One search under way; what it finds is in the ledger before it is used."""

    options: SearchOptions
    limits: Limits
    precision: str
    ledger: Ledger
    progress: Progress
    ask: Ask

    def size(self, candidates: tuple[Candidate, ...]) -> dict[Candidate, str]:
        """Size every candidate that the ledger does not know yet; return those far too large."""
        known, over = self.ledger.sizes.keys() | self.ledger.refused.keys(), {}
        left = [one for one in candidates if one not in known]
        if not left:
            return {}
        self.progress(f"size {len(left)} nets")
        bounds = [self.limits.memory_bytes, self.limits.model_bytes]
        asked = {
            **self._request("size", left),
            "target": self.options.target,
            "precision": self.precision,
            "most_bytes": min((one for one in bounds if one is not None), default=None),
        }
        for answer in self.ask(asked):
            candidate = Candidate(*answer["candidate"])
            if answer.get("over"):
                over[candidate] = answer["refused"]  # by today's limits
            elif "refused" in answer:
                self.ledger.refused[candidate] = answer["refused"]
            else:
                self.ledger.sizes[candidate] = Sizes.from_dict(answer["sizes"])
            self.ledger.save()
            self.progress(f"{candidate.name}: {answer.get('refused', 'sized')}")
        return over

    def found(self, least: int, over: Mapping[Candidate, str]) -> Found:
        """Return the best of what fits.

        Args:
            least: epochs after which a score counts.
            over: the nets that were not sized, since they are far too large.
        """
        options, sizes = self.options, self.ledger.sizes
        fitting, refused = self._within(over)
        chosen = affordable(fitting, sizes, options.budget, least)
        for one in set(fitting) - set(chosen):
            refused[one] = f"not tried: {options.budget} epochs are too few to tell more nets apart"
        trained = self._halve(least, chosen)
        best = ranked(trained.last, sizes)[0]
        model = options.out / "best.pt2"
        self.progress(f"{best.name}: export")
        last = {"trained": trained.schedule, "out": str(model)}
        _only(self.ask({**self._request("export", [best]), **last}))
        return Found(
            best,
            trained.last[best],
            model,
            sizes,
            trained.scores,
            trained.epochs,
            refused | trained.diverged,
            pareto(trained.scores, sizes),
        )

    def _within(
        self, over: Mapping[Candidate, str]
    ) -> tuple[tuple[Candidate, ...], dict[Candidate, str]]:
        """Return the candidates that keep the limits, and why the others do not."""
        target, sizes = self.options.target, self.ledger.sizes
        untold = all(one.latency_ms is None for one in sizes.values())
        if self.limits.latency_ms is not None and sizes and untold:
            raise UsageError(
                f"--max-latency-ms: {target} states no rates to estimate a latency by: add "
                "[rates] to a profile of your own, or leave the limit out"
            )
        refused = {**self.ledger.refused, **over}
        fitting = []
        for candidate in without_twins(sizes):
            why = self.limits.broken_by(sizes[candidate])
            if why is None:
                fitting.append(candidate)
            else:
                refused[candidate] = why
        if not fitting:
            nearest = min(refused)
            raise LimitsMissedError(
                f"{target}: no net of the recipe keeps the limits; the smallest, {nearest.name}: "
                f"{refused[nearest]}. Try larger limits, or smaller WIDTHS and DEPTHS in the "
                "recipe",
                sizes,
                refused,
            )
        return tuple(fitting), refused

    def _halve(self, least: int, chosen: tuple[Candidate, ...]) -> _Trained:
        """Train by successive halving. Raises NotAchievedError if no net can be trained at all."""
        count, alive = len(chosen), chosen
        found = _Trained({}, dict.fromkeys(chosen, 0), {}, {})
        for number in range(rounds(count)):
            if number:
                alive = survivors(promising(found.last, self.ledger.sizes))
            each = epochs_of(count, len(alive), self.options.budget, least)
            scored = self._round(alive, found.schedule, each)
            found.schedule = (*found.schedule, each)
            found.last = {one: score for one, score in scored.items() if score is not None}
            found.scores |= found.last
            for one in alive:
                found.epochs[one] += each
                if scored[one] is None:
                    found.diverged[one] = "its score is no number: its training diverged"
            if not found.last:
                raise NotAchievedError(
                    f"{self.options.recipe}: evaluate gives no number for any net that is left: "
                    "their training diverged"
                )
        return found

    def _round(
        self, alive: tuple[Candidate, ...], before: Schedule, epochs: int
    ) -> dict[Candidate, float | None]:
        """Return the scores of one round, training what the ledger does not know yet."""
        known = self.ledger.scores.setdefault((*before, epochs), {})
        left = [one for one in sorted(alive) if one not in known]
        if left:
            self.progress(f"round {len(before) + 1}: {len(left)} nets, {epochs} epochs each")
            asked = {**self._request("train", left), "trained": before, "epochs": epochs}
            for answer in self.ask(asked):
                candidate, score = Candidate(*answer["candidate"]), answer["score"]
                known[candidate] = score
                self.ledger.save()
                told = "no number" if score is None else f"{score:.4f}"
                self.progress(f"{candidate.name}: {told}")
        return {one: known[one] for one in alive}

    def _request(self, action: str, candidates: list[Candidate]) -> dict[str, Any]:
        return {
            "recipe": str(self.options.recipe),
            "action": action,
            "candidates": [[one.width, one.depth] for one in candidates],
            "seed": self.options.seed,
            "folder": str(self.options.out),
        }
