"""Whether two TFLite files compute the same: ``python -m edgec_compiler.mapping.proof A B``.

Both run in the device's own runtime in a child process, which a hostile file may crash, on the
same inputs: all values at their lowest, at their highest, and drawn over the whole range.
"""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from edgec_runtime.errors import RunError
from edgec_runtime.session import ModelTensor, Session, load_session

_DRAWN = 6
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of comparing two models on `inputs` inputs."""

    equal: bool
    inputs: int = 0
    problem: str | None = None
    first_refused: bool = False  # the runtime does not take the first model at all


def prove(before: bytes, after: bytes) -> Proof:
    """Return whether two models give bit for bit equal outputs."""
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("before.tflite", "after.tflite")]
        for path, payload in zip(paths, (before, after), strict=True):
            path.write_bytes(payload)
        command = [sys.executable, "-P", "-m", "edgec_compiler.mapping.proof", *map(str, paths)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return Proof(False, problem=f"not compared within {_TIMEOUT_S} s")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Proof(False, problem=f"the runtime crashed ({name})")
    try:
        return Proof(**json.loads(done.stdout))
    except (ValueError, TypeError):
        return Proof(False, problem="the runtime failed")


def _compare(before: bytes, after: bytes) -> Proof:
    try:
        first = load_session(before, "litert", optimise=False)
    except RunError as error:
        return Proof(False, problem=f"the runtime refuses the model: {error}", first_refused=True)
    try:
        second = load_session(after, "litert", optimise=False)
        return _same_answers(first, second)
    except RunError as error:
        return Proof(False, problem=str(error))


def _same_answers(first: Session, second: Session) -> Proof:
    if (first.inputs, first.outputs) != (second.inputs, second.outputs):
        return Proof(False, problem="inputs or outputs differ")
    for number in range(2 + _DRAWN):
        feeds = {tensor.name: _values(tensor, number) for tensor in first.inputs}
        one, two = first.run(feeds), second.run(feeds)
        for name, value in one.items():
            if not np.array_equal(value, two[name], equal_nan=value.dtype.kind == "f"):
                return Proof(False, number, f"output '{name}' differs")
    return Proof(True, 2 + _DRAWN)


def _values(tensor: ModelTensor, number: int) -> np.ndarray[Any, Any]:
    shape = tuple(max(size, 1) for size in tensor.shape)
    dtype = np.dtype(tensor.dtype)
    draw = np.random.default_rng(number)
    if dtype.kind == "f":
        ends = (-1.0, 1.0)
        value = np.full(shape, ends[number]) if number < 2 else draw.uniform(-1, 1, shape)
        return np.asarray(value.astype(dtype))
    if dtype.kind == "b":
        return np.asarray(draw.integers(0, 2, shape).astype(dtype))
    low, high = (int(end) for end in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    if dtype.itemsize > 2:  # indices, most likely
        low, high = 0, 1
    if number < 2:
        return np.full(shape, (low, high)[number], dtype)
    return np.asarray(draw.integers(low, high, shape, dtype=dtype, endpoint=True))


def main() -> int:
    """Print the proof as JSON."""
    before, after = (Path(name).read_bytes() for name in sys.argv[1:3])
    print(json.dumps(asdict(_compare(before, after))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
