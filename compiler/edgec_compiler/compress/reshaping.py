"""Channels through a change of shape: flattening, splitting and merging axes.

Merging channels with space repeats each channel's atom over its places. Splitting them in two (a
channel shuffle, attention heads) ties the inner index over all outer ones, so that what is left is
still a box. Anything else is given back as lost, to be held.
"""

import math
from collections.abc import Callable

import numpy as np

from edgec_compiler.compress.atoms import Ids

Axes = dict[int, Ids]  # axis -> its atoms, for the axes that have some
Tie = Callable[[Ids, Ids], None]


def reshaped(
    axes: Axes, before: tuple[int, ...], after: tuple[int, ...], tie: Tie
) -> tuple[Axes, list[int]]:
    """Return the atoms along the axes of the new shape, and the old axes that got lost.

    Args:
        axes: atoms along axes of the value with shape `before`.
        before: the old shape.
        after: the new shape, of as many elements.
        tie: ties two rows of atoms.
    """
    made: Axes = {}
    blocks = _blocks(before, after)
    seen = {axis for old, _ in blocks for axis in old}
    lost = [axis for axis in axes if axis not in seen]
    for old, new in blocks:
        tracked = [axis for axis in old if axis in axes]
        if len(tracked) > 1:
            lost += tracked
        elif tracked:
            shape = [before[axis] if axis == tracked[0] else 1 for axis in old]
            full = np.broadcast_to(
                axes[tracked[0]].reshape(shape), [before[axis] for axis in old]
            ).reshape([after[axis] for axis in new])
            place = _tie_to_one_axis(full, tie)
            if place is None:
                lost += tracked
            else:
                index: list[int | slice] = [0] * full.ndim
                index[place] = slice(None)
                made[new[place]] = full[tuple(index)].copy()
    return made, lost


def _tie_to_one_axis(full: Ids, tie: Tie) -> int | None:
    """Return the axis along which atoms vary, having tied what varies along others with it."""
    varying = [
        axis
        for axis in range(full.ndim)
        if full.shape[axis] > 1 and (full != full.take([0], axis)).any()
    ]
    if not varying:
        return 0 if full.size == full.shape[0] else None
    if len(varying) > 2:
        return None
    place = varying[-1]
    rows = np.moveaxis(full, place, -1).reshape(-1, full.shape[place])
    for row in rows[1:]:
        tie(rows[0], row)
    return place


def _blocks(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Return the least groups of neighbouring axes, old and new, with equal numbers of elements."""
    found: list[tuple[list[int], list[int]]] = []
    if 0 in before:
        return found
    i = j = 0
    while i < len(before) and j < len(after):
        old, new = [i], [j]
        while (left := math.prod(before[a] for a in old)) != (
            right := math.prod(after[a] for a in new)
        ):
            if left < right:
                old.append(old[-1] + 1)
            else:
                new.append(new[-1] + 1)
        found.append((old, new))
        i, j = old[-1] + 1, new[-1] + 1
    return found
