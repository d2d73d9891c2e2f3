"""Which layers lose most when they are quantised: cheap guesses first, then measurements."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgec_compiler.errors import CompilerError
from edgec_compiler.quantise.layers import Layer
from edgec_compiler.recipe import Recipe
from edgec_compiler.search.bench import Bench


@dataclass(frozen=True, slots=True)
class Ranked:
    """One layer, and the error of the model's outputs when it alone is quantised."""

    layer: Layer
    suspicion: float  # as `suspicion.suspicion`, 0..1
    error: float | None  # as `Bench.output_error`; None: not measured

    @property
    def sqnr_db(self) -> float | None:
        """The signal's power over the error's, in dB; None if not measured, or without error."""
        return -10 * math.log10(self.error) if self.error else None


def rank_layers(
    bench: Bench,
    recipe: Recipe,
    most: int,
    go_on: Callable[[], bool],
    tell: Callable[[int, int], None],
) -> tuple[Ranked, ...]:
    """Return all layers, the worst first; those not measured come last, by their guess.

    Args:
        bench: of the target.
        recipe: the way in which the one layer is quantised.
        most: layers to measure, those with the worst guesses.
        go_on: asked before each measurement.
        tell: how many of how many are measured.

    Raises:
        CompilerError: the model has no float form for the target.
    """
    layers, suspicions = bench.layers(), bench.suspicions()
    guesses = {one.name: suspicions.get(one.output, 0.0) for one in layers}
    guessed = sorted(layers, key=lambda one: (-guesses[one.name], -one.macs, one.name))
    names = [layer.name for layer in layers]
    measured: dict[str, float] = {}
    for number, layer in enumerate(guessed[:most]):
        if not go_on():
            break
        tell(number + 1, min(most, len(guessed)))
        rest = tuple(sorted(name for name in names if name != layer.name))
        try:
            measured[layer.name] = bench.output_error(replace(recipe, float_layers=rest))
        except CompilerError:
            continue  # this layer cannot be quantised alone, so it is not to blame
    first = [one for one in guessed if one.name in measured]
    first.sort(key=lambda one: -measured[one.name])
    last = [one for one in guessed if one.name not in measured]
    return tuple(Ranked(one, guesses[one.name], measured.get(one.name)) for one in (*first, *last))


def shares(layers: Sequence[Layer], *, of_weights: bool) -> dict[str, float]:
    """Return each layer's share of the model's weights or arithmetic, 0..1 in sum."""
    sizes = {one.name: one.weights if of_weights else one.macs for one in layers}
    total = sum(sizes.values())
    return {name: size / total if total else 0.0 for name, size in sizes.items()}
