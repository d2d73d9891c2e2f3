"""Which ends of a model have no batch axis, so that devices could not serve it in rows.

Recurrent models put time or layers first, in results and in the state that they are handed back;
audio models take a bare waveform, detectors give bare lists of boxes. A raw sample makes one row
of every end.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from edgec_runtime.session import ModelTensor


class Places(NamedTuple):
    """The inputs and outputs that get a batch axis, by number."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def lacking(inputs: Sequence[ModelTensor], outputs: Sequence[ModelTensor]) -> Places:
    """Return the ends whose first axis is no batch: none if it is of one size at all ends."""
    firsts = {one.shape[:1] for one in (*inputs, *outputs)}
    if len(firsts) < 2 and () not in firsts:
        return Places((), ())
    return Places(_without(inputs), _without(outputs))


def with_axis(tensors: Sequence[ModelTensor], places: Sequence[int]) -> tuple[ModelTensor, ...]:
    """Return `tensors`, with a batch axis of 1 at those `places`."""
    return tuple(
        replace(one, shape=(1, *one.shape)) if place in places else one
        for place, one in enumerate(tensors)
    )


def notes_on(
    inputs: Sequence[ModelTensor], outputs: Sequence[ModelTensor], places: Places
) -> tuple[str, ...]:
    """Return what people shall hear about the ends at `places`, as they were without the axis."""
    ends = [("input", inputs[place]) for place in places.inputs]
    ends += [("output", outputs[place]) for place in places.outputs]
    return tuple(
        f"{kind} '{one.name}' has no batch axis: it gets one, and is {[1, *one.shape]}"
        for kind, one in ends
    )


def _without(tensors: Sequence[ModelTensor]) -> tuple[int, ...]:
    return tuple(place for place, one in enumerate(tensors) if one.shape[:1] != (1,))
