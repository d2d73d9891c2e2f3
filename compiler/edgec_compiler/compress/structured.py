"""Structured pruning: whole channels go, wherever they are read, and the graph gets smaller.

Channels of one layer, and of all layers tied to it, form a family. Families lose channels in
steps of 8 (what SIMD and NPUs like) as long as the requested share of the parameters is not passed;
only where that leaves much of it unused, in steps of 4, 2 and 1. Which family is next: the one that
loses the least magnitude for what it saves of the model's parameters and of its multiply-
accumulates, in equal parts; which channel of it: the weakest.

Source: group L2 magnitude, normalised per layer, of DepGraph (arXiv:2301.12900, section 3.3).
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import fx

from edgec_compiler.compress.atoms import Ids
from edgec_compiler.compress.constants import values_of
from edgec_compiler.compress.counting import macs_by_weight, weight_shapes
from edgec_compiler.compress.layers import trace
from edgec_compiler.compress.resizing import shrink
from edgec_compiler.compress.tracing import Trace
from edgec_compiler.passes.graph import Example, observe

STEPS = (8, 4, 2, 1)
_ENOUGH = 0.9  # of the request: finer steps are then not worth their odd sizes
_LEAST = 2  # channels that every layer of a family keeps

Strengths = npt.NDArray[np.float64]


@dataclass(slots=True)
class _Family:
    """Prunable channels of tied layers, weakest first, and how many of them are gone."""

    channels: list[int]
    strengths: Strengths
    kept_anyway: int
    atoms_each: int  # along the layer's own axis
    gone: int = 0

    def left(self) -> int:
        return self.kept_anyway + len(self.channels) - self.gone

    def fewer(self, step: int, least: int) -> int | None:
        """Return how many channels more would go at the next multiple of `step`."""
        step = max(1, step // self.atoms_each)
        now = self.left()
        target = (now - 1) // step * step
        if target < max(least, self.kept_anyway, _LEAST):
            return None
        return now - target

    def cost(self, count: int) -> float:
        """Return what share of the magnitude that is left `count` channels more would take."""
        lost = self.strengths[: self.gone + count].cumsum()
        before = float(lost[self.gone - 1]) if self.gone else 0.0
        return (float(lost[-1]) - before) / max(1 - before, 1e-9)


def prune_channels(graph: fx.GraphModule, example: Example, ratio: float) -> tuple[str, ...]:
    """Remove about `ratio` of the parameters from `graph` in place, never more.

    Args:
        graph: captured; its nodes know their shapes.
        example: inputs to see by that it still runs.
        ratio: share of the parameters, 0..1.

    Returns:
        What keeps its channels and why, for people.
    """
    found = trace(graph)
    channels = found.atoms.channels()
    held_by = found.atoms.held()
    families = _families(graph, found, channels, held_by)
    sizes = _Sizes.of(found, channels)
    _choose(families, sizes, ratio)
    gone = {c for family in families for c in family.channels[: family.gone]}
    shrink(found, ~np.isin(channels, list(gone)))
    observe(graph, example)
    return _kept(found, channels, held_by)


def can_lose_channels(graph: fx.GraphModule) -> bool:
    """Return whether any ratio would take channels from `graph`, or every layer keeps its own."""
    found = trace(graph)
    return bool(_families(graph, found, found.atoms.channels(), found.atoms.held()))


def _choose(families: list[_Family], sizes: "_Sizes", ratio: float) -> None:
    """Take channels from `families` until no step fits into the budget."""
    budget = math.floor(ratio * sizes.total())
    spent = 0
    for step in STEPS:
        while True:
            best = None
            for family in families:
                least = math.ceil((1 - ratio) / 2 * (family.kept_anyway + len(family.channels)))
                count = family.fewer(step, least)
                if count is None:
                    continue
                going = family.channels[family.gone : family.gone + count]
                saved, worth = sizes.saved(going)
                if not 0 < saved <= budget - spent:
                    continue
                cost = family.cost(count) / worth
                if best is None or cost < best[0]:
                    best = (cost, family, going, saved)
            if best is None:
                break
            _, family, going, saved = best
            family.gone += len(going)
            sizes.remove(going)
            spent += saved
        if spent >= _ENOUGH * budget:
            return


@dataclass(slots=True)
class _Sizes:
    """How many parameters are left as channels go."""

    shapes: dict[str, dict[int, int]]  # weight -> axis -> slices left
    worth: dict[str, float]  # of one element of each weight: its share of parameters and MACs
    places: dict[int, Counter[tuple[str, int]]] = field(default_factory=dict)  # of each channel

    @classmethod
    def of(cls, found: Trace, channels: Ids) -> "_Sizes":
        shapes, used = weight_shapes(found.graph), macs_by_weight(found.graph)
        counts = {name: max(1, math.prod(shape)) for name, shape in shapes.items()}
        every, all_used = max(1, sum(counts.values())), max(1, sum(used.values()))
        worth = {n: 1 / every + used[n] / counts[n] / all_used for n in shapes}
        sizes = cls({name: dict(enumerate(shape)) for name, shape in shapes.items()}, worth)
        for (weight, axis), ids in found.atoms.cuts.items():
            for channel in channels[ids].tolist():
                sizes.places.setdefault(channel, Counter())[weight, axis] += 1
        return sizes

    def total(self) -> int:
        return sum(math.prod(axes.values()) for axes in self.shapes.values())

    def saved(self, going: list[int]) -> tuple[int, float]:
        """Return how many parameters go with `going`, and what that is worth."""
        fewer = sum((self.places.get(channel, Counter()) for channel in going), Counter())
        saved, worth = 0, 0.0
        for weight in sorted({weight for weight, _ in fewer}):
            axes = self.shapes[weight]
            after = math.prod(size - fewer[weight, axis] for axis, size in axes.items())
            less = math.prod(axes.values()) - after
            saved, worth = saved + less, worth + less * self.worth[weight]
        return saved, worth

    def remove(self, going: list[int]) -> None:
        for channel in going:
            for (weight, axis), count in self.places.get(channel, Counter()).items():
                self.shapes[weight][axis] -= count


def _families(
    graph: fx.GraphModule, found: Trace, channels: Ids, held_by: Mapping[int, str]
) -> list[_Family]:
    strength = _strengths(graph, found, channels)
    family_of: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    atoms_each: dict[int, int] = {}
    for ids in found.atoms.produced:
        own = channels[ids].tolist()
        joined = sorted({family_of[c] for c in own if c in family_of}) or [min(own)]
        first = joined[0]
        for other in joined[1:]:
            for channel in members.pop(other):
                family_of[channel] = first
                members[first].append(channel)
        for channel in own:
            if channel not in family_of:
                family_of[channel] = first
                members.setdefault(first, []).append(channel)
        atoms_each[first] = max(1, len(own) // len(set(own)))
    made, needed = [], _needed(found, channels, strength)
    for first, own in sorted(members.items()):
        loose = (c for c in own if c not in held_by and c not in needed)
        free = sorted(loose, key=lambda c: (strength[c], c))
        if free:
            order = np.array([strength[c] for c in free])
            total = float(sum(strength[c] for c in own)) or 1.0
            kept = len(own) - len(free)
            made.append(_Family(free, order / total, kept, atoms_each[first]))
    return made


def _needed(found: Trace, channels: Ids, strength: Strengths) -> set[int]:
    """Return the strongest channels of every value: with none left, no operator would run.

    A family's own least does not see to that: its layers can meet in a concatenation, a split or a
    slice, and one of them be the weakest throughout.
    """
    parts = (axes for node in found.parts for axes in found.parts[node])
    every = (ids for axes in (*found.axes.values(), *parts) for ids in axes.values())
    needed: set[int] = set()
    for ids in every:
        own = sorted(set(channels[ids].tolist()), key=lambda c: (strength[c], c))
        needed.update(own[-_LEAST:])
    return needed


def _strengths(graph: fx.GraphModule, found: Trace, channels: Ids) -> Strengths:
    """Return for each channel the sum, over its slices, of their squared L2 norms.

    Every weight has an equal voice: its norms are divided by their mean. Vectors have none.
    """
    strength: Strengths = np.zeros(len(channels), np.float64)
    values = values_of(graph)
    for (weight, axis), ids in found.atoms.cuts.items():
        value = values[weight]
        if value.dim() < 2:
            continue
        norms = value.double().pow(2).sum(dim=[a for a in range(value.dim()) if a != axis]).numpy()
        mean = norms.mean()
        if mean > 0:
            np.add.at(strength, channels[ids], norms / mean)
    return strength


def _kept(found: Trace, channels: Ids, held_by: Mapping[int, str]) -> tuple[str, ...]:
    """Return which operators kept how many layers from losing channels."""
    reasons: Counter[str] = Counter()
    for ids in found.atoms.produced:
        own = set(channels[ids].tolist())
        if own and all(channel in held_by for channel in own):
            reasons[held_by[min(own)]] += 1
    return tuple(
        f"{count} layer{'s' if count > 1 else ''} kept whole: "
        + ("the output keeps its classes" if why == "output" else f"{why} reads its channels")
        for why, count in sorted(reasons.items())
    )
