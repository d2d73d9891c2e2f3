"""How good a pipeline is on data, and how far two of them agree."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgec_runtime import classes
from edgec_runtime.data import Data, load_data
from edgec_runtime.errors import DataError, InputError
from edgec_runtime.pipeline import Pipeline
from edgec_runtime.session import Array

_PORTION = 64


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a pipeline answered to every row of some data."""

    samples: int
    accuracy: float | None  # 0..1; None without labels, or if the model names no classes
    predictions: Array | None  # int64 [N], or [N, ...] for a map; None if there are no classes
    outputs: Mapping[str, Array] | None  # the final outputs, kept only if there are no classes


def evaluate(
    pipeline: Pipeline, data: Data, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Run `pipeline` over `data` in bounded memory; `progress(done, total)` is told how far.

    Raises:
        DataError: the data has other inputs than the model, labels of another shape, or a file that
            is refused.
        InputError, ModelError, OutputError: as `Pipeline.infer`.
    """
    data = data.bound(pipeline.manifest.inputs)
    found: list[Array] = []
    kept: list[dict[str, Array]] = []
    for number, portion in enumerate(data.portions(_PORTION)):
        try:
            outputs = pipeline.infer(portion.inputs)
        except InputError as error:
            raise data.refused(error, number * _PORTION) from error
        if pipeline.head is None:
            kept.append(outputs)
        else:
            found.append(classes.predicted(pipeline.head, outputs))
        if progress is not None:
            progress(min(len(data), (len(found) + len(kept)) * _PORTION), len(data))
    if pipeline.head is None:
        joined = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
        return Evaluation(len(data), None, None, joined)
    predictions = np.concatenate(found)
    return Evaluation(len(data), _accuracy(predictions, data.labels), predictions, None)


def _accuracy(predictions: Array, labels: Array | None) -> float | None:
    if labels is None:
        return None
    if labels.shape != predictions.shape:
        raise DataError(
            f"expected labels of shape {list(predictions.shape)}, got {list(labels.shape)}"
        )
    return float((predictions == labels).mean())


def agreement(one: Evaluation, other: Evaluation) -> float:
    """Return how far two evaluations of the same data agree, 0..1; see `classes`.

    Raises:
        ValueError: they are not of the same data, or one names classes and the other does not.
    """
    if one.samples != other.samples:
        raise ValueError(f"evaluations of {one.samples} and {other.samples} samples")
    if one.predictions is not None and other.predictions is not None:
        return float(classes.share(one.predictions, other.predictions).mean())
    if one.outputs is None or other.outputs is None:
        raise ValueError("one evaluation has classes, the other has none")
    return float(classes.values_agree(one.outputs, other.outputs).mean())


__all__ = ["Data", "Evaluation", "agreement", "evaluate", "load_data"]
