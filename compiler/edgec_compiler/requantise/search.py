"""The highest price of a changed weight at which the model is still as good as it must be.

The yardstick is always the float model: an error that an earlier update left behind counts like any
other, so chains of updates do not drift.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from edgec_compiler.requantise.layer import Array, FloatLayer, Floats, Layer, QuantisedLayer, Values
from edgec_compiler.requantise.moments import Curvatures
from edgec_compiler.requantise.outputs import Yardstick, rms
from edgec_compiler.requantise.rework import Terms, rework

_SENSITIVITY_SAMPLES = 32
_LEAST, _MOST = 2.0**-10, 2.0**20  # of lambda
_STRIDE = 8.0  # first steps
_CLOSE = 2.0**0.25  # last step
_CONFIDENCE = 1.0  # standard errors by which the budget must be kept


class Model(Protocol):
    """A float model and its ordinary int8 form: TFLite or ONNX."""

    runtime: str
    float_payload: bytes
    ordinary: tuple[QuantisedLayer | None, ...]
    exact: tuple[FloatLayer | None, ...]

    def with_values(self, values: Mapping[int, Values]) -> bytes:
        """Return the int8 file with new constants in some layers."""

    def float_with(self, index: int, weights: Floats) -> bytes:
        """Return the float file with other weights in one layer."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be requantised and how it is judged."""

    model: Model
    layers: tuple[Layer, ...]
    curvatures: Curvatures
    yardstick: Yardstick
    importance: Mapping[int, float]  # layer -> share of the ordinary error per unit of its loss

    @property
    def weights(self) -> int:
        """How many weights have a counterpart."""
        return sum(layer.exact.weights.size for layer in self.layers)

    def at(self, price: float) -> dict[int, Values]:
        """Return the layers' constants at lambda `price`: a change of all weights costs that."""
        each = price / max(1, self.weights)
        return {
            layer.index: rework(
                layer,
                self.curvatures.get(layer.index),
                Terms(self.importance[layer.index], each),
            )
            for layer in self.layers
        }


@dataclass(frozen=True, slots=True)
class Found:
    """A requantised model and the price that made it."""

    price: float
    payload: bytes
    values: Mapping[int, Values]
    error: float  # against the float model


def importances(
    model: Model, layers: tuple[Layer, ...], curvatures: Curvatures, yardstick: Yardstick
) -> dict[int, float]:
    """Return how much of the model's squared error comes of a unit of each layer's own.

    Measured: one layer of the float model at a time gets its ordinary int8 weights. In units of
    the outputs' variance.
    """
    found = {}
    for layer in layers:
        rounded = layer.ordinary.q * layer.ordinary.scales.astype(np.float64)[:, :, None]
        loss = curvatures.get(layer.index).loss(rounded - layer.exact.weights).sum()
        moved = yardstick.moved(model.float_with(layer.index, rounded), _SENSITIVITY_SAMPLES)
        found[layer.index] = max(moved, 1e-15) / max(float(loss), 1e-30)
    return found


def search(
    task: Task, ordinary: Array, budget: float, accept: Callable[[bytes], bool]
) -> Found | None:
    """Return the model at the highest price that keeps the budget, or None if none does.

    Args:
        task: what is requantised.
        ordinary: squared errors of the ordinary int8 model, by sample.
        budget: how large the error may be, as a multiple of the ordinary one. Kept with a margin
            of one standard error, so that other samples find it kept too.
        accept: a last gate (accuracy); a model that it refuses is replaced by one at a quarter of
            the price, three times.
    """
    limit = budget**2 * ordinary
    best = _highest(lambda price: _try(task, price, limit))
    for _ in range(4):
        if best is None or accept(best.payload):
            return best
        best = _try(task, best.price / 4, limit)
    return None


def _highest(attempt: Callable[[float], Found | None]) -> Found | None:
    """Return the result at about the highest price whose attempt is not None.

    Errors grow with the price but for noise: strides from 1 up or down to a pair of a good and a
    bad price, then halves of the gap between their logarithms.
    """
    good = attempt(1.0)
    low, high = (1.0, _STRIDE) if good is not None else (1 / _STRIDE, 1.0)
    while low > _LEAST and high < _MOST:
        at_edge = attempt(high if good is not None else low)
        if good is not None:
            if at_edge is None:
                break
            good, low, high = at_edge, high, high * _STRIDE
        else:
            if at_edge is not None:
                good = at_edge
                break
            low, high = low / _STRIDE, low
    while good is not None and high / low > _CLOSE:
        middle = math.sqrt(low * high)
        found = attempt(middle)
        low, high = (low, middle) if found is None else (middle, high)
        good = found or good
    return good


def _try(task: Task, price: float, limit: Array) -> Found | None:
    """Return the model at `price` if it keeps the limit of squared errors by sample."""
    values = task.at(price)
    payload = task.model.with_values(values)
    squares = task.yardstick.squares(payload)
    excess = squares - limit
    margin = _CONFIDENCE * float(excess.std()) / math.sqrt(len(excess))
    if float(excess.mean()) + margin > 0:
        return None
    return Found(price, payload, values, rms(squares))
