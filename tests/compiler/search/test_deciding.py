"""What a search tries and chooses: laws that hold whatever the candidates turn out to be."""

import math
import zlib
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from edgec_compiler.recipe import METHODS, Recipe
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

PRECISIONS = ("int8", "fp16", "fp32", "int16x8", "int4")
INTEGERS = frozenset({"int8", "int16x8", "int4"})
LAYERS = tuple(f"layer{i}" for i in range(9))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    precisions = draw(st.permutations(PRECISIONS).map(tuple))
    precisions = precisions[: draw(st.integers(1, len(precisions)))]
    weights = [draw(st.integers(0, 9)) for _ in LAYERS]
    return Space(
        plain=tuple(Recipe(precision) for precision in precisions),
        limit=draw(st.floats(0, 0.2)),
        integers=INTEGERS,
        methods=draw(st.sampled_from([(), METHODS])),
        corrections=draw(st.booleans()),
        mixable=draw(st.booleans()),
        costs={precision: float(place + 1) for place, precision in enumerate(precisions)},
        shares={n: w / max(sum(weights), 1) for n, w in zip(LAYERS, weights, strict=True)},
        most=draw(st.integers(1, 40)),
        most_bytes=draw(st.sampled_from([None, 500])),
        by_size=draw(st.booleans()),
        int4_with_int8=draw(st.booleans()),
    )


@st.composite
def worlds(draw: st.DrawFn) -> "World":
    """What each candidate would turn out to be: any answers, monotone or not."""
    seed = draw(st.integers(0, 2**32))
    return World(seed, draw(st.booleans()))


class World:
    """Judges every recipe by a hash of it, so that equal recipes get equal answers."""

    def __init__(self, seed: int, refusing: bool) -> None:
        self._seed, self._refusing = seed, refusing

    def judge(self, space: Space, recipe: Recipe) -> Judged:
        said = (self._seed, recipe.precision, recipe.method, recipe.float_layers)
        said = (*said, *recipe.int8_layers)
        number = zlib.crc32(repr(said).encode())
        number += 7919 * recipe.equalise + 104729 * recipe.bias_correction
        if self._refusing and number % 11 == 0:
            return Judged(recipe, 0.0, 0, math.inf, "refused")
        loss = 0.0 if recipe.precision == "fp32" else (number % 97) / 200
        size = number % 1000
        return Judged(recipe, float(size) if space.by_size else space.cost(recipe), size, loss)


def searched(space: Space, world: World) -> tuple[Space, dict[Recipe, Judged]]:
    """Run a search to its end, as the doing part does."""
    known: dict[Recipe, Judged] = {}
    for _ in range(500):
        step = next_step(space, known)
        if step is None:
            return space, known
        if isinstance(step, Rank):
            assert step.recipe.precision not in space.ranked
            space = replace(space, ranked={**space.ranked, step.recipe.precision: LAYERS[::-1]})
            continue
        assert step not in known
        known[step] = world.judge(space, step)
    raise AssertionError("the search does not end")


@given(spaces(), worlds())
def test_a_search_ends_within_its_budget(space: Space, world: World) -> None:
    most = at_most(space)

    space, known = searched(space, world)

    assert 1 <= len(known) <= most <= space.most


@given(spaces(), worlds())
def test_the_chosen_candidate_keeps_the_budget_and_none_of_less_cost_does(
    space: Space, world: World
) -> None:
    space, known = searched(space, world)

    chosen = choose(space, known.values())

    keeping = [one for one in known.values() if space.keeps(one)]
    if chosen is None:
        assert not keeping
        return
    assert space.keeps(chosen)
    assert chosen.cost == min(one.cost for one in keeping)
    assert chosen in front(list(known.values()))


@given(spaces(), worlds(), st.randoms())
def test_neither_order_nor_interruption_has_a_say(
    space: Space, world: World, random: object
) -> None:
    space, known = searched(space, world)
    items = list(known.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    some = dict(items)

    assert next_step(space, some) is None
    assert choose(space, some.values()) == choose(space, known.values())

    # A search that had judged the first few already asks for the rest, in the same order.
    order = list(known)
    for count in range(len(order)):
        assert next_step(space, {r: known[r] for r in order[:count]}) == order[count]


@given(spaces(), worlds())
def test_the_front_holds_what_nothing_beats(space: Space, world: World) -> None:
    _, known = searched(space, world)
    made = [one for one in known.values() if one.refused is None]

    best = front(list(known.values()))

    for one in made:
        better = [o for o in made if (o.cost, o.bytes, o.loss) != (one.cost, one.bytes, one.loss)]
        beaten = any(
            o.cost <= one.cost and o.bytes <= one.bytes and o.loss <= one.loss for o in better
        )
        assert beaten != (one in best)


SPACE = Space(
    plain=(Recipe("int8"), Recipe("fp16"), Recipe("fp32")),
    limit=0.01,
    integers=INTEGERS,
    methods=METHODS,
    corrections=True,
    mixable=True,
    costs={"int8": 1.0, "fp16": 2.0, "fp32": 3.0},
    shares={layer: 1 / 9 for layer in LAYERS},
)


def _play(space: Space, losses: object) -> list[Recipe]:
    known: dict[Recipe, Judged] = {}
    tried: list[Recipe] = []
    while (step := next_step(space, known)) is not None:
        if isinstance(step, Rank):
            space = replace(space, ranked={step.recipe.precision: LAYERS})
            continue
        loss = losses(step)  # type: ignore[operator]
        known[step] = Judged(step, space.cost(step), 100, loss)
        tried.append(step)
    return tried


def test_a_default_that_keeps_the_budget_is_the_only_candidate() -> None:
    assert _play(SPACE, lambda recipe: 0.01) == [Recipe("int8")]


def test_a_better_method_is_tried_before_any_layer_is_kept_in_float() -> None:
    tried = _play(SPACE, lambda recipe: 0.0 if recipe.method == "mse" else 0.5)

    assert tried == [Recipe("int8"), Recipe("int8", "percentile"), Recipe("int8", "mse")]


def test_a_model_without_a_graph_is_not_equalised() -> None:
    without = replace(SPACE, equalisable=False, mixable=False)

    tried = _play(without, lambda recipe: 0.5)

    assert not any(recipe.equalise for recipe in tried)
    assert [recipe.bias_correction for recipe in tried[:5]] == [False] * 4 + [True]
    assert len(tried) == at_most(without) == at_most(replace(SPACE, mixable=False)) - 2


def test_the_least_number_of_layers_stays_in_float() -> None:
    def loss(recipe: Recipe) -> float:
        return 0.0 if "layer2" in recipe.float_layers else 0.5

    tried = _play(SPACE, loss)

    counts = [len(recipe.float_layers) for recipe in tried if recipe.float_layers]
    assert counts == [1, 2, 4, 3]
    kept = [recipe for recipe in tried if loss(recipe) == 0.0]
    assert min(kept, key=lambda one: len(one.float_layers)).float_layers == LAYERS[:3]
    assert all(recipe.precision == "int8" for recipe in tried)


def test_for_size_the_files_decide_and_not_what_their_precisions_promise() -> None:
    space = replace(SPACE, by_size=True, costs={"fp32": 340.0})
    sizes = {"int8": 467, "fp16": 185, "fp32": 340}
    known = {
        recipe: Judged(recipe, sizes[recipe.precision], sizes[recipe.precision], 0.0)
        for recipe in space.plain
    }

    assert next_step(space, {}) == Recipe("int8")
    assert next_step(space, known) is None
    assert choose(space, known.values()) == known[Recipe("fp16")]

    # Where it loses too much, the next smallest is as good as it gets: nothing is tried of int8.
    known[Recipe("fp16")] = replace(known[Recipe("fp16")], loss=0.5)
    assert next_step(space, known) is None
    assert choose(space, known.values()) == known[Recipe("fp32")]


def test_for_size_int4_is_mixed_with_int8_and_not_with_floats() -> None:
    sizes = {"int4": 50, "int8": 100}
    space = replace(
        SPACE,
        plain=(Recipe("int4"), Recipe("int8")),
        methods=(),
        corrections=False,
        by_size=True,
        int4_with_int8=True,
        costs={"fp32": 400.0},
        ranked={"int4": LAYERS},
    )
    known: dict[Recipe, Judged] = {}
    while (step := next_step(space, known)) is not None:
        assert isinstance(step, Recipe)
        size = sizes[step.precision] + 5 * len(step.int8_layers)
        lost = step.precision == "int4" and "layer1" not in step.int8_layers
        known[step] = Judged(step, float(size), size, 0.5 if lost else 0.0)

    best = choose(space, known.values())
    assert best is not None
    assert best.recipe == Recipe("int4", int8_layers=("layer0", "layer1"))
    assert not any(recipe.float_layers for recipe in known)


def test_layers_stay_in_float_only_as_long_as_the_next_precision_promises_less() -> None:
    tried = _play(SPACE, lambda recipe: 0.0 if recipe.precision == "fp16" else 0.5)

    assert max(len(recipe.float_layers) for recipe in tried) == 4  # 1 + 5/9 x 2 is more than 2
    assert tried[-1] == Recipe("fp16")


def test_a_precision_that_is_refused_costs_one_candidate() -> None:
    space = replace(SPACE, plain=(Recipe("int4"), *SPACE.plain), costs={**SPACE.costs, "int4": 0.5})
    known = {Recipe("int4"): Judged(Recipe("int4"), 0.5, 0, math.inf, "no 4-bit weights")}

    assert next_step(space, known) == Recipe("int8")
    assert best_of(known.values()) is None
