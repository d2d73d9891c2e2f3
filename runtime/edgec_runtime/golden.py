"""Golden samples: raw inputs with the outputs that the compiler saw, to be seen again on a device.

They prove "runs here as compiled". A float output may be off by the tolerance, in absolute value,
and must name the same class; of an integer or boolean output (a map, say) a share of at most
the tolerance may differ, and of a class nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgec_bundle.errors import ArrayError
from edgec_bundle.manifest import Golden, Manifest
from edgec_bundle.npz import read_npz, write_npz
from edgec_runtime import classes
from edgec_runtime.classes import Head
from edgec_runtime.data import Data
from edgec_runtime.errors import DataError, SpecError
from edgec_runtime.pipeline import Pipeline
from edgec_runtime.processing import RawInput
from edgec_runtime.session import Array

METRIC = "max_abs_error"
MAX_BYTES = 256 << 20
_CANDIDATES = 8  # rows looked at for each that is kept
# Members of the .npz: arrays as they are; files end to end, with their sizes.
_INPUT, _FILES, _SIZES, _OUTPUT = "input/", "files/", "sizes/", "output/"


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """What came of running golden samples. `failed` numbers the samples that differ too much."""

    passed: bool
    samples: int
    worst_error: float
    failed: tuple[int, ...]


def record_golden(
    pipeline: Pipeline, inputs: Mapping[str, RawInput], samples: int, tolerance: float
) -> tuple[bytes, Golden]:
    """Return golden.npz and its description, made from rows spread evenly over `inputs`.

    Rows whose best two classes lie within twice the tolerance are passed over while others are
    left: a legal deviation could change their class.

    Args:
        pipeline: runs the portable model as the device will.
        inputs: raw inputs, at least one row.
        samples: how many to keep, at least 1; fewer if there are fewer rows.
        tolerance: see the module.

    Raises:
        InputError, ModelError, OutputError: as `Pipeline.infer`.
    """
    if samples < 1:
        raise ValueError(f"expected at least 1 sample, got {samples}")
    data = Data(inputs)
    candidates = data.take(_spread(len(data), samples * _CANDIDATES))
    outputs = pipeline.infer(candidates.inputs)
    clear = _clear(pipeline.head, outputs, tolerance)
    order = np.argsort(~clear, kind="stable")[: max(samples, int(clear.sum()))]
    kept = np.sort(order[_spread(len(order), samples)])
    chosen = candidates.take([int(i) for i in kept])
    arrays = {f"{_OUTPUT}{name}": value[kept] for name, value in outputs.items()}
    for name, value in chosen.inputs.items():
        arrays.update(_packed(name, value))
    return write_npz(arrays), Golden(len(kept), tolerance, METRIC)


def check_golden(pipeline: Pipeline, npz: bytes, golden: Golden) -> GoldenResult:
    """Run the samples in `npz` and compare with the outputs recorded there.

    Raises:
        DataError: `npz` is malformed, or does not fit the manifest.
        SpecError: the manifest asks for a metric that is not known.
        InputError, ModelError, OutputError: as `Pipeline.infer`.
    """
    if golden.metric != METRIC:
        raise SpecError(f"golden.metric: expected {METRIC}, got {golden.metric}")
    inputs, expected = read_golden(npz, pipeline.manifest)
    rows = len(next(iter(expected.values())))
    if rows != golden.samples:
        raise DataError(f"golden: expected {golden.samples} samples, got {rows}")
    got = pipeline.infer(inputs)
    errors, wrong = np.zeros(rows), np.zeros(rows, bool)
    for name, want in expected.items():
        if got[name].shape != want.shape or got[name].dtype != want.dtype:
            raise DataError(
                f"golden: output '{name}' is recorded as {want.dtype} {list(want.shape)},"
                f" the model gives {got[name].dtype} {list(got[name].shape)}"
            )
        errors = np.maximum(errors, _errors(got[name], want))
    if pipeline.head is not None and pipeline.head.kind != "map":
        same = classes.predicted(pipeline.head, got) == classes.predicted(pipeline.head, expected)
        wrong = ~same
    failed = np.flatnonzero((errors > golden.tolerance) | wrong)
    return GoldenResult(
        passed=failed.size == 0,
        samples=rows,
        worst_error=float(errors.max()),
        failed=tuple(int(i) for i in failed),
    )


def read_golden(npz: bytes, manifest: Manifest) -> tuple[dict[str, RawInput], dict[str, Array]]:
    """Return the raw inputs and the recorded outputs of golden samples of any origin.

    Raises:
        DataError: malformed, too large, or of another interface than the manifest's.
    """
    try:
        arrays: dict[str, Array] = read_npz(npz, MAX_BYTES)
    except ArrayError as error:
        raise DataError(f"golden: {error}") from error
    inputs: dict[str, RawInput] = {}
    for spec in manifest.inputs:
        if _INPUT + spec.name in arrays:
            inputs[spec.name] = arrays.pop(_INPUT + spec.name)
        else:
            files, sizes = (arrays.pop(kind + spec.name, None) for kind in (_FILES, _SIZES))
            inputs[spec.name] = _unpacked(spec.name, files, sizes)
    expected = {}
    for spec in manifest.outputs:
        if _OUTPUT + spec.name not in arrays:
            raise DataError(f"golden: expected output '{spec.name}', got none")
        expected[spec.name] = arrays.pop(_OUTPUT + spec.name)
    if arrays:
        raise DataError(f"golden: unknown array '{min(arrays)}'")
    counts = {
        len(value) if np.ndim(value) else 0 for value in (*inputs.values(), *expected.values())
    }
    if len(counts) != 1 or counts == {0}:
        raise DataError(f"golden: expected one number of rows in all arrays, got {sorted(counts)}")
    return inputs, expected


def _spread(rows: int, count: int) -> list[int]:
    """Return at most `count` row numbers, evenly spread over `rows`."""
    return [int(i) for i in np.linspace(0, rows - 1, min(rows, count)).round()]


def _clear(head: Head | None, outputs: Mapping[str, Array], tolerance: float) -> Array:
    """Return per row whether the tolerance can't change the class."""
    rows = len(next(iter(outputs.values())))
    if head is None or head.scores is None:
        return np.ones(rows, bool)
    scores = np.sort(outputs[head.scores].astype(np.float64), axis=1)
    if scores.shape[1] < 2:
        return np.ones(rows, bool)
    clear: Array = scores[:, -1] - scores[:, -2] > 2 * tolerance
    return clear


def _errors(got: Array, want: Array) -> Array:
    rows = len(want)
    if want.dtype.kind != "f":
        return np.asarray((got != want).reshape(rows, -1).mean(axis=1))
    difference = np.abs(got.astype(np.float64) - want.astype(np.float64)).reshape(rows, -1)
    worst = difference.max(axis=1, initial=0.0)
    return np.asarray(np.where(np.isnan(worst), np.inf, worst))


def _packed(name: str, value: RawInput) -> dict[str, Array]:
    if isinstance(value, np.ndarray):
        return {_INPUT + name: value}
    return {
        _FILES + name: np.frombuffer(b"".join(value), np.uint8),
        _SIZES + name: np.array([len(encoded) for encoded in value], np.int64),
    }


def _unpacked(name: str, files: Array | None, sizes: Array | None) -> Sequence[bytes]:
    if files is None or sizes is None:
        raise DataError(f"golden: expected input '{name}', got none")
    fits = (
        files.dtype == np.uint8
        and files.ndim == sizes.ndim == 1
        and sizes.dtype == np.int64
        and len(sizes) > 0
        and bool((sizes >= 0).all() and (sizes <= len(files)).all())
        and int(sizes.sum()) == len(files)
    )
    if not fits:
        raise DataError(f"golden: the files of input '{name}' do not match their sizes")
    ends = np.cumsum(sizes)
    whole = files.tobytes()
    return [whole[end - size : end] for end, size in zip(ends, sizes, strict=True)]
