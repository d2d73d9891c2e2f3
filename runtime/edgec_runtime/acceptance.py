"""The acceptance set: labelled raw samples and a minimum score, signed by somebody else.

It proves "still does the job", where golden samples prove "runs here as compiled".
"""

import math
from dataclasses import dataclass

from edgec_runtime.data import data_from_npz
from edgec_runtime.errors import DataError, UnsupportedError
from edgec_runtime.evaluate import evaluate
from edgec_runtime.pipeline import Pipeline

METRICS = ("accuracy",)
MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class AcceptanceResult:
    """What came of running an acceptance set. Scores are fractions 0..1."""

    score: float
    minimum: float
    samples: int
    passed: bool


def check_acceptance(
    pipeline: Pipeline, npz: bytes, minimum: float, metric: str = "accuracy"
) -> AcceptanceResult:
    """Run the set in `npz` (`inputs`, or one array per input, and `labels`) and score it.

    Raises:
        UnsupportedError: the metric is not known.
        DataError: `npz` is malformed, has no labels, or does not fit the model.
        InputError, ModelError, OutputError: as `Pipeline.infer`.
    """
    if metric not in METRICS:
        raise UnsupportedError((f"acceptance metric '{metric}'",))
    if not (math.isfinite(minimum) and 0 <= minimum <= 1):
        raise DataError(f"acceptance: expected a minimum in 0..1, got {minimum}")
    data = data_from_npz(npz, "acceptance", MAX_BYTES)
    if data.labels is None:
        raise DataError("acceptance: expected an array 'labels', got none")
    score = evaluate(pipeline, data).accuracy
    if score is None:
        raise DataError(
            f"acceptance: model '{pipeline.manifest.model}' names no classes to compare with labels"
        )
    return AcceptanceResult(score, minimum, len(data), score >= minimum)
