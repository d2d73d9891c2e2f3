"""One layer requantised at a price: grid, weights and bias, near those of the deployed model."""

from dataclasses import dataclass

import numpy as np

from edgec_compiler.requantise.descend import SWEEPS, descend
from edgec_compiler.requantise.layer import Floats, Ints, Layer, Singles, Values
from edgec_compiler.requantise.moments import Curvature

_BITS_PER_CHANGE = 6.0  # what one changed weight costs in a patch, about: the price is per change
_SNAPPED_BITS, _SCALE_BITS = 8.0, 24.0  # of a scale that shares low bytes with the deployed one
_SNAP = 1 << 16  # of a float32's bits: its two low bytes stay the deployed scale's
_BIAS_SHIFTS = range(21)
_LARGEST_BIAS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Terms:
    """What a layer's squared output error counts, and what a changed weight costs."""

    importance: Floats  # [G, R] or [1, 1], > 0
    price: float  # >= 0, in the same unit


def rework(layer: Layer, curvature: Curvature, terms: Terms, sweeps: int = SWEEPS) -> Values:
    """Return new constants for `layer`.

    Price 0 keeps the ordinary grid. With no sweeps besides, the result is ordinary rounding.
    """
    scales = _grid(layer, curvature, terms)
    steps = scales.astype(np.float64)[:, :, None]
    wanted = layer.exact.weights / steps
    weight = terms.importance * steps[:, :, 0] ** 2
    limit = layer.ordinary.limit
    hessian, deployed = curvature.hessian, layer.deployed.q
    q = descend(wanted, deployed, hessian, weight, terms.price, limit, sweeps=sweeps)
    left = ((wanted - q) * curvature.mean[:, None, :]).sum(2) * steps[:, :, 0]
    return Values(q, scales, _bias(layer, scales, left if sweeps else 0 * left, terms))


def _grid(layer: Layer, curvature: Curvature, terms: Terms) -> Singles:
    """Return the scale of each row: the ordinary one, the deployed one, or a fitted one.

    A channel that training has rescaled keeps its integers under a rescaled grid; one of which
    only the largest weight has moved keeps them under the deployed grid. The cheapest is taken,
    judged weight by weight.
    """
    ordinary, deployed = layer.ordinary.scales, layer.deployed.scales
    if terms.price == 0 or layer.ordinary.per_tensor:
        return ordinary
    loss = np.einsum("gkk->gk", curvature.hessian).astype(np.float64)[:, None, :]
    old, weights = layer.deployed.q.astype(np.float64), layer.exact.weights
    fitted = (loss * weights * old).sum(2) / np.maximum((loss * old * old).sum(2), 1e-30)
    fitted = np.where(fitted > 0.5 * ordinary, fitted, ordinary).astype(np.float32)
    candidates = {
        "ordinary": (snapped(ordinary, deployed, up=True), _SNAPPED_BITS),
        "near": (snapped(fitted, deployed, up=False), _SNAPPED_BITS),
        "fitted": (fitted, _SCALE_BITS),
        "deployed": (deployed, 0.0),
    }
    importance = terms.importance[:, :, None] * loss
    costs = [
        _cost(layer, scales, importance, terms.price) + terms.price * bits / _BITS_PER_CHANGE
        for scales, bits in candidates.values()
    ]
    best = np.argmin(np.stack(costs), axis=0)
    chosen: Singles = np.choose(best, [scales for scales, _ in candidates.values()]).astype(
        np.float32
    )
    return chosen


def _cost(layer: Layer, scales: Singles, loss: Floats, price: float) -> Floats:
    """Return [G, R]: what each row would cost under `scales`, every weight by itself."""
    steps = scales.astype(np.float64)[:, :, None]
    limit = layer.ordinary.limit
    wanted, old = layer.exact.weights / steps, np.clip(layer.deployed.q, -limit, limit)
    weighed = loss * steps**2
    kept = weighed * np.square(wanted - old)
    changed = weighed * np.square(wanted - np.clip(np.rint(wanted), -limit, limit)) + price
    total: Floats = np.minimum(kept, changed).sum(2)
    return total


def snapped(scales: Singles, deployed: Singles, *, up: bool) -> Singles:
    """Return scales near `scales` whose two low bytes are those of the deployed ones.

    They differ from `scales` by less than 2**-6 of the value; the grid changes by that much, and
    the weights are rounded to it as well as to any other.

    Args:
        scales: wanted, float32, normal and > 0.
        deployed: the same, same shape.
        up: never below `scales`, so that nothing is clipped.
    """
    have = deployed.view(np.int32).astype(np.int64)
    gap = scales.view(np.int32).astype(np.int64) - have
    steps = -(-gap // _SNAP) if up else (gap + _SNAP // 2) // _SNAP
    return (have + steps * _SNAP).astype(np.int32).view(np.float32)


def _bias(layer: Layer, scales: Singles, left: Floats, terms: Terms) -> Ints | None:
    """Return the bias plus `left` [G, R], what the weights' errors do on average.

    Of a bias that has moved, low bits stay the deployed bias's as far as the price allows.
    """
    if layer.ordinary.bias is None or layer.exact.bias is None:
        return layer.ordinary.bias
    step = (layer.ordinary.input_scale * scales).astype(np.float64)
    wanted = (layer.exact.bias + left) / step
    best = _within_int32(np.rint(wanted))
    deployed = layer.deployed.bias
    if terms.price == 0 or deployed is None:
        return best
    exact, least = best, np.full(wanted.shape, np.inf)
    for shift in _BIAS_SHIFTS:
        unit = 1 << shift
        steps = (exact - deployed + unit // 2) // unit
        near = _within_int32(deployed + steps * unit)
        bits = np.where(near == deployed, 0.5, 2 + np.log2(1 + np.abs(steps)))
        loss = terms.importance * np.square((near - wanted) * step)
        cost = loss + terms.price / _BITS_PER_CHANGE * bits
        best, least = np.where(cost < least, near, best), np.minimum(cost, least)
    return best


def _within_int32(values: Floats | Ints) -> Ints:
    return np.clip(values, -_LARGEST_BIAS, _LARGEST_BIAS).astype(np.int64)
