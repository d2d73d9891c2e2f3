"""Decides what a search tries next, and what it chooses. No I/O, no clock, no model.

Candidates come in families, one per precision, the one that promises most first. In a family:

1. the plain recipe;
2. if that loses too much, other calibration methods, then bias correction and equalisation on top
   of the best method: they cost compile time only;
3. if all of these lose too much, the best of them with the worst layers in float: 1, 2, 4, ... of
   them until the budget is kept, then bisection for the least number; never so many that the next
   family promises more. For size, int4 is mixed with int8 in place of floats, where that is told.

The search ends with the first family that keeps the budget. What comes next depends on what is
known and on nothing else, so a search that was interrupted goes on where it was.

How small a precision makes a model is known only from the file: pairs, tables and what cannot be
narrowed take bytes too. A search for size therefore begins with the plain recipes of all families,
and takes the families in the order of their bytes.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgec_compiler.recipe import Recipe

_SLACK = 1e-12  # of a loss, for the rounding of a difference of two fractions
_CORRECTIONS = ((False, True), (True, False), (True, True))  # equalise, correct biases


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of one candidate."""

    recipe: Recipe
    cost: float  # what a search makes least: a share of the float model's time, or bytes
    bytes: int
    loss: float  # of accuracy, or of agreement with the source model; inf if it was refused
    refused: str | None = None  # why there is no such model


@dataclass(frozen=True, slots=True)
class Space:
    """What may be tried for one target."""

    plain: tuple[Recipe, ...]  # one per precision, the most promising first
    limit: float  # of the loss
    integers: frozenset[str] = frozenset()  # precisions whose ranges are learnt: can be tuned
    methods: tuple[str, ...] = ()  # to try besides the plain one
    corrections: bool = False  # whether bias correction may be tried
    equalisable: bool = True  # and equalisation too: there is a graph to work on
    mixable: bool = False  # whether layers may stay in float
    # Precision -> layers to keep in float, the worst first; absent: not ranked yet.
    ranked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)  # precision -> cost, as Judged.cost
    shares: Mapping[str, float] = field(default_factory=dict)  # layer -> share of the model, 0..1
    most: int = 32  # candidates
    most_bytes: int | None = None  # of a model file
    int4_with_int8: bool = False  # layers that int4 loses too much in may have int8 weights
    by_size: bool = False  # a cost is the bytes of a file; `costs` then need only know fp32's

    def cost(self, recipe: Recipe) -> float:
        """Return what `recipe` is expected to cost, from precisions and shares alone."""
        own, exact = self.costs[recipe.precision], self.costs.get("fp32", 1.0)
        kept, wide = (
            min(math.fsum(self.shares.get(layer, 0.0) for layer in layers), 1.0)
            for layers in (recipe.float_layers, recipe.int8_layers)
        )
        return own + kept * (exact - own) + wide * (self.costs.get("int8", own) - own)

    @property
    def ways(self) -> tuple[tuple[bool, bool], ...]:
        """The corrections that may be tried: (equalise, correct biases)."""
        ways = _CORRECTIONS if self.corrections else ()
        return tuple(way for way in ways if self.equalisable or not way[0])

    def mixes(self, precision: str) -> bool:
        """Return whether layers of `precision` may be spared what it does to the others."""
        return self.mixable or self.widens(precision)

    def widens(self, precision: str) -> bool:
        """Return whether they are spared by int8 weights instead of floats."""
        return precision == "int4" and self.int4_with_int8

    def keeps(self, judged: Judged) -> bool:
        """Return whether a candidate keeps the budget and fits the device."""
        fits = self.most_bytes is None or judged.bytes <= self.most_bytes
        return judged.refused is None and fits and judged.loss <= self.limit + _SLACK


@dataclass(frozen=True, slots=True)
class Rank:
    """The next thing to do is to rank the layers of `recipe`'s precision."""

    recipe: Recipe


Known = Mapping[Recipe, Judged]


def next_step(space: Space, known: Known) -> Recipe | Rank | None:
    """Return the candidate to judge next, layers to rank first, or None at the end."""
    if len(known) >= space.most:
        return None
    if space.by_size:
        unknown = [plain for plain in space.plain if plain not in known]
        if unknown:
            return unknown[0]
        space = _weighed(space, known)
    for place, plain in enumerate(space.plain):
        step = _next_simple(space, plain, known)
        if step is not None:
            return step
        simple = [r for r in _simple(space, plain, known) if r in known]
        if any(space.keeps(known[recipe]) for recipe in simple):
            return None
        tried = [known[recipe] for recipe in simple if known[recipe].refused is None]
        if tried and space.mixes(plain.precision) and plain.precision in space.integers:
            base = min(tried, key=lambda judged: judged.loss).recipe  # the first of equals
            if plain.precision not in space.ranked:
                return Rank(base)
            mixed, passing = _next_mixed(space, base, place, known)
            if mixed is not None or passing:
                return mixed
    return None


def _weighed(space: Space, known: Known) -> Space:
    """Return the families by the bytes of their plain recipes' files, the smallest first."""
    made = [known[plain] for plain in space.plain if known[plain].refused is None]
    made.sort(key=lambda judged: judged.bytes)
    costs = {judged.recipe.precision: float(judged.bytes) for judged in made}
    return replace(space, plain=tuple(one.recipe for one in made), costs={**space.costs, **costs})


def at_most(space: Space) -> int:
    """Return how many candidates a search can try at most."""
    total = 0
    for plain in space.plain:
        total += 1
        if plain.precision in space.integers:
            total += sum(method != plain.method for method in space.methods) + len(space.ways)
            layers = len(space.ranked.get(plain.precision, space.shares))
            if space.mixes(plain.precision) and layers > 1:
                total += 2 * math.ceil(math.log2(layers)) + 1
    return min(total, space.most)


def choose(space: Space, known: Iterable[Judged]) -> Judged | None:
    """Return the candidate of least cost that keeps the budget, or None."""
    kept = [judged for judged in known if space.keeps(judged)]
    return min(kept, key=_merit, default=None)


def best_of(known: Iterable[Judged]) -> Judged | None:
    """Return the candidate that loses least, or None if all were refused."""
    made = [judged for judged in known if judged.refused is None]
    return min(made, key=lambda one: (one.loss, *_merit(one)), default=None)


def front(known: Sequence[Judged]) -> tuple[Judged, ...]:
    """Return the candidates that no other beats: none is as good in all and better in one."""
    made = [judged for judged in known if judged.refused is None]
    return tuple(one for one in made if not any(_beats(other, one) for other in made))


def _beats(one: Judged, other: Judged) -> bool:
    mine, its = (one.cost, one.bytes, one.loss), (other.cost, other.bytes, other.loss)
    return mine != its and all(a <= b for a, b in zip(mine, its, strict=True))


def _merit(judged: Judged) -> tuple[float, int, float, str]:
    return judged.cost, judged.bytes, judged.loss, repr(judged.recipe)


def _next_simple(space: Space, plain: Recipe, known: Known) -> Recipe | None:
    for recipe in _simple(space, plain, known):
        if recipe not in known:
            return recipe
        if space.keeps(known[recipe]) or known[plain].refused is not None:
            return None
    return None


def _simple(space: Space, plain: Recipe, known: Known) -> Iterator[Recipe]:
    """Yield a family's candidates without more layers in float, each once the former are known."""
    yield plain
    if plain.precision not in space.integers:
        return
    methods = [plain, *(replace(plain, method=m) for m in space.methods if m != plain.method)]
    yield from methods[1:]
    if space.ways and all(recipe in known for recipe in methods):
        best = min(methods, key=lambda recipe: known[recipe].loss)
        for equalise, correct in space.ways:
            recipe = replace(
                best,
                equalise=equalise or plain.equalise,
                bias_correction=correct or plain.bias_correction,
            )
            if recipe != best:
                yield recipe


def _next_mixed(space: Space, base: Recipe, place: int, known: Known) -> tuple[Recipe | None, bool]:
    """Return the next number of layers in float to try, and whether one kept the budget."""
    ranked = [n for n in space.ranked[base.precision] if n not in base.float_layers]
    later = [space.cost(plain) for plain in space.plain[place + 1 :]]
    bound = min(later, default=math.inf)

    def mixed(count: int) -> Recipe:
        if space.widens(base.precision):
            return replace(base, int8_layers=tuple(sorted(ranked[:count])))
        return replace(base, float_layers=tuple(sorted({*base.float_layers, *ranked[:count]})))

    most = max((k for k in range(1, len(ranked)) if space.cost(mixed(k)) < bound), default=0)
    failing, passing = 0, None
    count = 1
    while failing < most:
        recipe = mixed(min(count, most))
        if recipe not in known:
            return recipe, False
        if space.keeps(known[recipe]):
            passing = min(count, most)
            break
        failing = min(count, most)
        count *= 2
    if passing is None:
        return None, False
    while passing - failing > 1:
        middle = (passing + failing) // 2
        recipe = mixed(middle)
        if recipe not in known:
            return recipe, True
        if space.keeps(known[recipe]):
            passing = middle
        else:
            failing = middle
    return None, True
