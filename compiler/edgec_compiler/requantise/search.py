"""The highest price of a changed weight at which the model is still as good as it must be.

The yardstick is always the float model: an error that an earlier update left behind counts like any
other, so chains of updates do not drift.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from edgec_compiler.requantise.layer import Array, FloatLayer, Floats, Layer, QuantisedLayer, Values
from edgec_compiler.requantise.moments import Curvatures
from edgec_compiler.requantise.outputs import Yardstick, rms
from edgec_compiler.requantise.rework import Terms, rework

_SENSITIVITY_SAMPLES = 32
_LEAST, _MOST = 2.0**-10, 2.0**20  # of lambda
_STRIDE = 8.0  # between the first prices tried
_HALVINGS = 4  # of the stride between the last that was good enough and the first that was not
_CONFIDENCE = 0.5  # standard errors by which the budget must be kept
_USUAL = 0.98  # of the samples


class Model(Protocol):
    """A float model and its ordinary int8 form: TFLite or ONNX."""

    runtime: str
    float_payload: bytes
    ordinary: tuple[QuantisedLayer | None, ...]
    exact: tuple[FloatLayer | None, ...]
    last: int | None  # the dense layer that makes the model's only output, if one does

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
    calibration: Yardstick  # of the samples that the last bias is corrected with
    importance: Mapping[int, Floats]  # layer -> share of the ordinary error per unit of its loss

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

    def corrected(self, values: Mapping[int, Values]) -> dict[int, Values]:
        """Return `values` with the outputs' mean error over the calibration taken off the bias.

        Quantised activations shift the outputs as well as weights do (Nagel et al. 2019,
        arXiv:1906.04721, section 4.2); of the last layer the shift is simply measured.
        """
        last = self.model.last
        layer = None if last is None else self.model.ordinary[last]
        if last is None or layer is None or layer.bias is None:
            return dict(values)
        now = values.get(last, Values(layer.q, layer.scales, layer.bias))
        error = self.calibration.errors(self.model.with_values(values)).mean(axis=0)
        if now.bias is None or error.size != now.bias.size:
            return dict(values)
        step = (layer.input_scale * now.scales).astype(np.float64)
        moved = np.rint(error.reshape(step.shape) / step)
        bias = np.clip(now.bias - moved, -(2**31) + 1, 2**31 - 1).astype(np.int64)
        return {**values, last: replace(now, bias=bias)}


@dataclass(frozen=True, slots=True)
class Found:
    """A requantised model and the price that made it."""

    price: float
    payload: bytes
    values: Mapping[int, Values]
    error: float  # against the float model


def importances(
    model: Model,
    layers: tuple[Layer, ...],
    curvatures: Curvatures,
    yardstick: Yardstick,
    rows: Mapping[int, Floats],
) -> dict[int, Floats]:
    """Return how much of the model's squared error comes of a unit of each row's own.

    The layer as a whole is measured: one layer of the float model at a time gets its ordinary int8
    weights. How its rows share in that comes from `rows` [G, R], where it is known. In units of
    the outputs' variance.
    """
    found = {}
    for layer in layers:
        rounded = layer.ordinary.q * layer.ordinary.scales.astype(np.float64)[:, :, None]
        loss = curvatures.get(layer.index).loss(rounded - layer.exact.weights)
        share = rows.get(layer.index, np.ones((1, 1)))
        moved = yardstick.moved(model.float_with(layer.index, rounded), _SENSITIVITY_SAMPLES)
        weighed = float((loss * share).sum())
        found[layer.index] = share * (max(moved, 1e-15) / max(weighed, 1e-30))
    return found


def search(
    task: Task, ordinary: Array, budget: float, accept: Callable[[bytes], bool]
) -> Found | None:
    """Return the model at the highest price that keeps the budget, or None if none does.

    Args:
        task: what is requantised.
        ordinary: squared errors of the ordinary int8 model, by sample.
        budget: how large the error may be, as a multiple of the ordinary one; see `keeps`.
        accept: a last gate (accuracy); a model that it refuses is replaced by one at a quarter of
            the price, three times.
    """

    def attempt(price: float) -> Found | None:
        values = task.corrected(task.at(price))
        payload = task.model.with_values(values)
        squares = task.yardstick.squares(payload)
        kept = keeps(squares, ordinary, budget)
        return Found(price, payload, values, rms(squares)) if kept else None

    best = _highest(attempt)
    for _ in range(4):
        if best is None or accept(best.payload):
            return best
        best = attempt(best.price / 4)
    return None


def keeps(squares: Array, ordinary: Array, budget: float) -> bool:
    """Return whether an error is at most `budget` times the ordinary one, on other samples too.

    So half a standard error of margin is asked for; and that the budget is kept without the largest
    fiftieth of the ordinary errors as well. A few samples that leave the calibrated ranges may make
    most of the ordinary error, and room that other samples don't have.

    Args:
        squares: squared errors, by sample.
        ordinary: those of the ordinary int8 model.
        budget: > 0, in terms of errors.
    """
    excess = squares - budget**2 * ordinary
    usual = ordinary <= np.quantile(ordinary, _USUAL)
    return not (_is_over(excess) or _is_over(excess[usual]))


def _is_over(excess: Array) -> bool:
    margin = _CONFIDENCE * float(excess.std()) / math.sqrt(len(excess))
    return float(excess.mean()) + margin > 0


def _highest(attempt: Callable[[float], Found | None]) -> Found | None:
    """Return the result at about the highest price whose attempt is not None.

    Errors grow with the price, but for noise. So: strides from 1, up to the first price that fails
    or down to the first that does not; what lies between the two is halved.
    """
    good, low = attempt(1.0), 1.0
    if good is not None:
        while low * _STRIDE < _MOST:
            found = attempt(low * _STRIDE)
            if found is None:
                break
            good, low = found, low * _STRIDE
    while good is None and low / _STRIDE > _LEAST:
        low /= _STRIDE
        good = attempt(low)
    if good is None:
        return None
    ratio = _STRIDE
    for _ in range(_HALVINGS):
        ratio **= 0.5
        found = attempt(low * ratio)
        if found is not None:
            good, low = found, low * ratio
    return good
