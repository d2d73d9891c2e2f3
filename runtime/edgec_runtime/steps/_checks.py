"""Checks that several steps share. All raise Misfit."""

import numpy as np

from edgec_runtime.session import Array
from edgec_runtime.steps._params import Misfit


def require_finite(batch: Array) -> None:
    """Refuse a float batch [N, ...] that holds a nan or an infinity, and say where."""
    if batch.dtype.kind != "f":
        return
    finite = np.isfinite(batch)
    if not finite.all():
        row, *place = (int(i) for i in np.argwhere(~finite)[0])
        value = batch[(row, *place)]
        raise Misfit(f"expected finite numbers, got {value} at {place}", row)


def require_kind(batch: Array, kinds: str, expected: str) -> None:
    """Refuse a batch whose dtype is of none of numpy's `kinds`."""
    if batch.dtype.kind not in kinds:
        raise Misfit(f"expected {expected}, got {batch.dtype}")


def require_rank(batch: Array, ranks: tuple[int, ...], expected: str) -> None:
    """Refuse a batch with a number of axes outside `ranks`."""
    if batch.ndim not in ranks:
        raise Misfit(f"expected {expected}, got shape {list(batch.shape)}")


def axis_of(batch: Array, axis: int) -> int:
    """Return `axis` counted from 0. Refuses the batch axis and what the batch does not have."""
    found = axis + batch.ndim if axis < 0 else axis
    if not 0 < found < batch.ndim:
        raise Misfit(f"has no axis {axis} beside the batch: shape {list(batch.shape)}")
    return found


def along(values: tuple[float, ...], batch: Array, axis: int, what: str) -> Array:
    """Return `values` as float32 that broadcasts along `axis` of the batch; one value fits all."""
    if len(values) == 1:
        return np.array(values[0], np.float32)
    place = axis_of(batch, axis)
    if batch.shape[place] != len(values):
        raise Misfit(f"has {batch.shape[place]} values along axis {axis}, {what} has {len(values)}")
    shape = [1] * batch.ndim
    shape[place] = len(values)
    return np.array(values, np.float32).reshape(shape)
