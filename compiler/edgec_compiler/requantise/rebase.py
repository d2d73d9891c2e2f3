"""A whole int8 model made near a deployed one, and the record of what that cost and saved."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import zstandard

from edgec_bundle.delta import make_patch
from edgec_compiler.errors import NotAchievedError
from edgec_compiler.requantise import search
from edgec_compiler.requantise.base import Base
from edgec_compiler.requantise.layer import (
    Array,
    Floats,
    Layer,
    QuantisedLayer,
    Signature,
    Values,
)
from edgec_compiler.requantise.matching import counterparts
from edgec_compiler.requantise.moments import Curvatures, observe
from edgec_compiler.requantise.outputs import Feeds, Yardstick, rms
from edgec_compiler.requantise.ranges import TOLERANCES

MAX_SAMPLES = 512  # that errors are measured on
MAX_CORRECTING = 128  # that the last bias is corrected with
_MAX_SAMPLE_BYTES = 64 << 20  # of either, as floats
_FULL_LEVEL = 9
_WORTH = 0.97  # of the ordinary patch: what saves less is not worth another model
_SAME_ERROR = 1.02  # squared; the search for lambda makes up for it


class Model(search.Model, Protocol):
    """A float model and its ordinary int8 form, whose float activations can be watched."""

    def activations(
        self, names: Sequence[str], samples: Iterable[Mapping[str, Array]]
    ) -> Iterable[Mapping[str, Array]]:
        """Yield the float values of tensors, for one sample after the other."""


@dataclass(frozen=True, slots=True)
class Data:
    """Float samples: each call begins anew, so that they can stream."""

    calibration: Callable[[], Iterable[Feeds]]
    correcting: Callable[[], Iterable[Feeds]]  # some of them, from all over
    judged: Callable[[], Iterable[Feeds]]  # what errors are measured on
    origin: str  # of the latter: "evaluation" | "calibration"
    rows: Callable[[Mapping[int, Signature]], Mapping[int, Floats]]  # shares of layers' rows


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the update shall be near to, and how good it must stay."""

    base: Base
    budget: float  # times the ordinary int8 model's error against the float model
    finish: Callable[[bytes], bytes]  # from the quantiser's file to the shipped one
    accept: Callable[[bytes], bool]  # the accuracy gate, on a shipped file


@dataclass(frozen=True, slots=True)
class Rebased:
    """The finished file, what report and lineage say about it, and a note for people."""

    payload: bytes
    record: Mapping[str, Any]
    note: str


def rebase(
    model: Model,
    deployed: Sequence[QuantisedLayer | None],
    data: Data,
    wanted: Wanted,
    ranged: Callable[[float], Model | None],
) -> Rebased:
    """Return `model` near the deployed one, or as it is where that saves nothing.

    Args:
        model: the new one, quantised as always.
        deployed: layers of the deployed one.
        data: what errors and second moments are taken from.
        wanted: how near, how good.
        ranged: returns `model` with those of the deployed ranges that lie within a tolerance.

    Raises:
        NotAchievedError: no layer has a counterpart, or a budget below 1 cannot be kept.
    """
    layers = _layers(model, deployed)
    ordinary = model.with_values({})
    found, squares = _search(model, ordinary, deployed, data, wanted, ranged)
    plain = wanted.finish(ordinary)
    made = None if found is None else wanted.finish(found.payload)
    sizes = [_patch(wanted.base.payload, one) for one in (plain, made) if one is not None]
    useful = found is not None and made is not None and sizes[-1][1] < _WORTH * sizes[0][1]
    if not useful and wanted.budget < 1:
        raise NotAchievedError(
            f"--delta-budget {wanted.budget:g}: no int8 model near the deployed one keeps the "
            "error that low: allow 1, the error of ordinary quantisation, or more"
        )
    chosen = found if useful else None
    record = _record(wanted, data, layers, model, squares, sizes, chosen)
    return Rebased(made if useful and made is not None else plain, record, _note(record))


def _search(
    model: Model,
    ordinary: bytes,
    deployed: Sequence[QuantisedLayer | None],
    data: Data,
    wanted: Wanted,
    ranged: Callable[[float], Model | None],
) -> tuple[search.Found | None, Floats]:
    """Return what keeps the budget near the deployed model, and `ordinary`'s squared errors.

    Models with the deployed ranges are tried first: fewer of their bytes change.
    """

    def accept(made: bytes) -> bool:
        return wanted.accept(wanted.finish(made))

    layers = _layers(model, deployed)
    judged = _bounded(data.judged())
    with TemporaryDirectory() as folder:
        curvatures = Curvatures(Path(folder))
        observe(
            {layer.index: layer.exact for layer in layers},
            lambda names: model.activations(names, data.calibration()),
            curvatures,
        )
        yardstick = Yardstick.of(model.float_payload, model.runtime, judged)
        squares = yardstick.squares(ordinary)
        rows = data.rows({layer.index: layer.ordinary.signature for layer in layers})
        shares = search.importances(model, layers, curvatures, yardstick, rows)
        whole = max(float(squares.mean()), 1e-30)
        importance = {index: share / whole for index, share in shares.items()}
        some = _bounded(data.correcting())
        correcting = Yardstick.of(model.float_payload, model.runtime, some)
        near = _same_ranges(ranged, yardstick, squares)
        tasks = [
            search.Task(one, _layers(one, deployed), curvatures, yardstick, correcting, importance)
            for one in ([] if near is None else [near]) + [model]
        ]
        found = (search.search(task, squares, wanted.budget, accept) for task in tasks)
        return next((one for one in found if one is not None), None), squares


def _layers(model: Model, deployed: Sequence[QuantisedLayer | None]) -> tuple[Layer, ...]:
    found = []
    for index, other in sorted(counterparts(model.ordinary, deployed).items()):
        exact, ordinary, old = model.exact[index], model.ordinary[index], deployed[other]
        if exact is None or ordinary is None or old is None:
            continue
        if exact.weights.shape == ordinary.q.shape:
            found.append(Layer(index, exact, ordinary, old))
    if not found:
        raise NotAchievedError(
            "--delta-base: no layer of the deployed model has the kind and shape of a layer of "
            "the new one: it is another architecture. Compile without --delta-base"
        )
    return tuple(found)


def _same_ranges(
    ranged: Callable[[float], Model | None], yardstick: Yardstick, squares: Floats
) -> Model | None:
    """Return the model with the deployed ranges, if its error is not larger for it."""
    for tolerance in TOLERANCES:
        near = ranged(tolerance)
        if near is None:
            return None
        if yardstick.squares(near.with_values({})).mean() <= _SAME_ERROR * squares.mean():
            return near
    return None


def _bounded(samples: Iterable[Feeds]) -> list[Feeds]:
    kept: list[Feeds] = []
    size = 0
    for sample in samples:
        size += sum(value.nbytes for value in sample.values())
        if kept and (len(kept) == MAX_SAMPLES or size > _MAX_SAMPLE_BYTES):
            break
        kept.append(sample)
    return kept


def _patch(old: bytes, new: bytes) -> tuple[str, int]:
    """Return format and bytes of what would be sent for the model file."""
    patch = make_patch(old, new)
    if patch is None:
        return "full", len(zstandard.ZstdCompressor(level=_FULL_LEVEL).compress(new))
    return patch.format, len(patch.data)


def _record(
    wanted: Wanted,
    data: Data,
    layers: tuple[Layer, ...],
    model: Model,
    squares: Array,
    sizes: list[tuple[str, int]],
    chosen: search.Found | None,
) -> dict[str, Any]:
    error = rms(squares)
    values = {} if chosen is None else chosen.values
    took = sizes[0] if chosen is None else sizes[-1]
    return {
        "base": wanted.base.bundle,
        "budget": wanted.budget,
        "lambda": 0.0 if chosen is None else chosen.price,
        "layers": {"matched": len(layers), "total": len(model.ordinary)},
        "error": {
            "ordinary": error,
            "model": error if chosen is None else chosen.error,
            "samples": len(squares),
            "data": data.origin,
        },
        "changed": {"ordinary": _changed(layers, {}), "model": _changed(layers, values)},
        "patch": {
            "ordinary": {"bytes": sizes[0][1], "format": sizes[0][0]},
            "model": {"bytes": took[1], "format": took[0]},
        },
    }


def _changed(layers: tuple[Layer, ...], values: Mapping[int, Values]) -> float:
    """Return the share of weights with a counterpart that differ from it."""
    differ = total = 0
    for layer in layers:
        new = values[layer.index].q if layer.index in values else layer.ordinary.q
        differ += int(np.count_nonzero(new != layer.deployed.q))
        total += new.size
    return differ / max(1, total)


def _note(record: Mapping[str, Any]) -> str:
    patch, error = record["patch"], record["error"]
    if record["lambda"] == 0:
        return (
            "ordinary quantisation is kept: nothing nearer to the deployed model has a clearly "
            "smaller patch within the budget"
        )
    return (
        f"the patch from the deployed model has {patch['model']['bytes']} bytes instead of "
        f"{patch['ordinary']['bytes']}, at {error['model'] / max(error['ordinary'], 1e-30):.2f} "
        "times the error of ordinary quantisation"
    )
