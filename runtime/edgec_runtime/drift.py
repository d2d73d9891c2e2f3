"""What a device watches to notice that the world has changed: three kinds of numbers per row.

`input.NAME.mean`  mean of the raw input (of the decoded image)
`class`            the class that was named
`confidence`       the winning probability

The compiler records how they are spread over known data (`baseline`); a device counts the same
numbers over the same edges (`observe`), and the fleet server compares.
"""

from collections.abc import Mapping

import numpy as np

from edgec_bundle.histograms import Histogram
from edgec_bundle.strict_json import JSON
from edgec_runtime import classes
from edgec_runtime.data import Data
from edgec_runtime.pipeline import Pipeline
from edgec_runtime.processing import RawInput
from edgec_runtime.session import Array

BINS = 32
MAX_INPUTS = 16  # inputs beyond are not watched
MAX_CLASSES = 256  # classes beyond share the last bin
_PORTION = 64


def baseline(pipeline: Pipeline, data: Data) -> dict[str, JSON]:
    """Return the histograms of `data` for `Manifest.baseline`: {name: {"edges", "counts"}}.

    Raises:
        DataError, InputError, ModelError, OutputError: as `evaluate`.
    """
    data = data.bound(pipeline.manifest.inputs)
    seen: dict[str, list[Array]] = {}
    for portion in data.portions(_PORTION):
        outputs = pipeline.infer(portion.inputs)
        for name, values in observe(pipeline, portion.inputs, outputs).items():
            seen.setdefault(name, []).append(values)
    histograms: dict[str, JSON] = {}
    for name, parts in seen.items():
        values = np.concatenate(parts)
        histograms[name] = Histogram.from_samples(values, _edges(pipeline, name, values)).to_dict()
    return histograms


def observe(
    pipeline: Pipeline, inputs: Mapping[str, RawInput], outputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Return what to count of one call: {name: float64 [N]}.

    Args:
        pipeline: what answered the call.
        inputs: the raw inputs that it accepted.
        outputs: the final outputs that it returned.
    """
    watched = {}
    for spec in pipeline.manifest.inputs[:MAX_INPUTS]:
        watched[_mean_name(spec.name)] = _means(pipeline, spec.name, inputs[spec.name])
    head = pipeline.head
    if head is not None and head.kind != "map":
        watched["class"] = classes.predicted(head, outputs).astype(np.float64)
        winners = classes.scores(head, outputs) if head.probabilities else None
        if winners is not None:
            watched["confidence"] = winners.astype(np.float64)
    return watched


def _mean_name(tensor: str) -> str:
    return f"input.{tensor}.mean"


def _means(pipeline: Pipeline, name: str, value: RawInput) -> Array:
    parts = pipeline.preprocessing.decoded(name, value)
    with np.errstate(all="ignore"):
        means = [_row_means(part.reshape(len(part), -1).astype(np.float64)) for part in parts]
    return np.concatenate(means)


def _row_means(rows: Array) -> Array:
    """Return the mean of each row without its nulls; nan for a row of nothing else."""
    known = ~np.isnan(rows)
    return np.asarray(np.where(known, rows, 0).sum(axis=1) / known.sum(axis=1))


def _edges(pipeline: Pipeline, name: str, values: Array) -> list[float]:
    if name == "confidence":
        return [float(edge) for edge in np.linspace(0, 1, BINS + 1)]
    if name == "class":
        highest = int(min(max(_classes(pipeline), values.max() + 1), MAX_CLASSES))
        return [float(edge) for edge in np.arange(highest + 1) - 0.5]
    dtype = next(s.dtype for s in pipeline.manifest.inputs if _mean_name(s.name) == name)
    if dtype in ("uint8", "bytes"):
        return [float(edge) for edge in np.linspace(0, 255, BINS + 1)]
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    # Half a range of room on each side, so that a moderate shift is seen as one.
    margin = (high - low) / 2 or max(abs(high), 1.0) / 2
    return [float(edge) for edge in np.linspace(low - margin, high + margin, BINS + 1)]


def _classes(pipeline: Pipeline) -> int:
    head = pipeline.head
    if head is not None and head.kind == "scores":
        spec = next(s for s in pipeline.manifest.outputs if s.name == head.output)
        return max(spec.shape[1], len(pipeline.labels))
    return len(pipeline.labels)
