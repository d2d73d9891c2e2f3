"""Successive halving: many nets trained a little, the better half trained on, until one is left.

Source: Jamieson and Talwalkar 2016, arXiv:1502.07943, algorithm "Successive Halving", with an epoch
as the unit of the budget.
"""

import math
from collections.abc import Mapping, Sequence

from edgec_compiler.architecture.candidates import Candidate, Sizes


def rounds(count: int) -> int:
    """Return how many rounds `count` candidates need: ceil(log2), at least one."""
    return max(1, math.ceil(math.log2(count))) if count else 0


def epochs_of(count: int, alive: int, budget: int, least: int = 1) -> int:
    """Return the epochs that each of `alive` candidates is trained for in a round.

    That is floor(B / (|S_k| ceil(log2 n))) of the paper, and never fewer than tell anything.
    """
    return max(least, budget // (alive * rounds(count)))


def affordable(
    candidates: Sequence[Candidate], sizes: Mapping[Candidate, Sizes], budget: int, least: int = 1
) -> tuple[Candidate, ...]:
    """Return as many candidates as `budget` epochs can tell apart, the largest within the limits.

    A net that fills what the target has is the better guess than one that leaves it idle.

    Args:
        candidates: within the limits.
        sizes: of all of them.
        budget: epochs, over all nets.
        least: epochs after which a score says anything.
    """
    count = len(candidates)
    while count > 1 and count * rounds(count) * least > budget:
        count -= 1
    largest = sorted(candidates, key=lambda one: (-sizes[one].macs, one))
    return tuple(sorted(largest[:count]))


def promising(
    scores: Mapping[Candidate, float], sizes: Mapping[Candidate, Sizes]
) -> tuple[Candidate, ...]:
    """Return the candidates, best score first; of equals the larger, which has more to learn."""
    return tuple(sorted(scores, key=lambda one: (-scores[one], -sizes[one].macs, one)))


def ranked(
    scores: Mapping[Candidate, float], sizes: Mapping[Candidate, Sizes]
) -> tuple[Candidate, ...]:
    """Return the candidates, best score first; of equals the quicker, then the smaller."""
    return tuple(
        sorted(
            scores,
            key=lambda one: (
                -scores[one],
                sizes[one].latency_ms or 0.0,
                sizes[one].model_bytes,
                one,
            ),
        )
    )


def survivors(order: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Return the better half of a ranking, rounded up."""
    return tuple(order[: math.ceil(len(order) / 2)])
