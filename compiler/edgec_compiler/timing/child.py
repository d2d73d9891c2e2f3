"""One model being timed: ``python -m edgec_compiler.timing.child JOB``, JOB as JSON.

Loads the model and says how long that took; then runs it as often as each line on stdin asks, and
answers with the durations. One JSON object per line, both ways.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgec_bundle.archive import is_bundle, open_bundle
from edgec_compiler.cli.opening import fixed, open_any, open_bundle_pipeline
from edgec_compiler.errors import CompilerError
from edgec_compiler.importers.shapes import parse_shapes
from edgec_runtime import bench
from edgec_runtime.golden import read_golden
from edgec_runtime.pipeline import Pipeline
from edgec_runtime.session import ModelTensor

_RUNTIME_MISSING = 3


def main() -> int:
    """Serve one job."""
    job, answers = json.loads(sys.argv[1]), os.dup(1)
    os.dup2(2, 1)  # what native libraries print is no answer
    with os.fdopen(answers, "w", encoding="utf-8") as out:

        def answer(**facts: Any) -> None:
            out.write(json.dumps(facts) + "\n")
            out.flush()

        try:
            _serve(job, answer)
        except CompilerError as error:
            answer(error=str(error), exit_code=error.exit_code)
        except Exception as error:  # a process edge: the parent tells it
            missing = type(error).__name__ == "RuntimeMissingError"
            answer(error=str(error), exit_code=_RUNTIME_MISSING if missing else 1)
    return 0


def _serve(job: Mapping[str, Any], answer: Callable[..., None]) -> None:
    path = Path(job["path"])
    _forget(path)
    start = time.perf_counter()
    bench.reset_peak()
    before = bench.resident_bytes()
    pipeline = _open(job)
    cold = time.perf_counter() - start
    infer = _whole(pipeline, path) if job["whole"] else _model(pipeline, job["shapes"])
    start = time.perf_counter()
    infer(0)
    first = time.perf_counter() - start
    taken = max(0, bench.peak_bytes() - before)
    start = time.perf_counter()
    _open(job).close()
    warm = time.perf_counter() - start
    answer(
        cold_ms=cold * 1e3,
        warm_ms=warm * 1e3,
        first_ms=first * 1e3,
        memory_bytes=taken,
        delegates=list(pipeline.session.delegates),
        runtime=pipeline.manifest.runtime.name,
    )
    turn = 0
    for line in sys.stdin:
        durations = []
        for _ in range(int(line)):
            turn += 1
            start_ns = time.perf_counter_ns()
            infer(turn)
            durations.append((time.perf_counter_ns() - start_ns) / 1e6)
        answer(durations_ms=durations, process_bytes=bench.peak_bytes())
    pipeline.close()


def _open(job: Mapping[str, Any]) -> Pipeline:
    path, threads = Path(job["path"]), job["threads"]
    if is_bundle(path):
        return open_bundle_pipeline(path, threads=threads, optimise=True)
    return open_any(job["path"], None, None, shapes=job["shapes"], threads=threads)


def _forget(path: Path) -> None:
    """Ask the kernel to drop the files from its cache, so that a cold load reads the disk."""
    for file in [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]:
        fd = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def _whole(pipeline: Pipeline, path: Path) -> Callable[[int], object]:
    """Return a run from raw input to final output, over the bundle's golden samples in turn."""
    bundle = open_bundle(path) if is_bundle(path) else None
    if bundle is None or not bundle.manifest.has("golden"):
        return _model(pipeline)
    inputs = read_golden(bundle.read("golden"), bundle.manifest)[0]
    count = min(len(value) for value in inputs.values())
    rows = [{name: value[i : i + 1] for name, value in inputs.items()} for i in range(count)]
    return lambda turn: pipeline.infer(rows[turn % count])


def _model(pipeline: Pipeline, shapes: Sequence[str] = ()) -> Callable[[int], object]:
    """Return a run of the model file alone, on noise."""
    draw = np.random.default_rng(0)
    inputs = fixed(pipeline.session.inputs, parse_shapes(shapes))
    feeds = {tensor.name: _noise(tensor, draw) for tensor in inputs}
    return lambda turn: pipeline.session.run(feeds)


def _noise(tensor: ModelTensor, draw: np.random.Generator) -> np.ndarray[Any, Any]:
    shape, dtype = tensor.shape, np.dtype(tensor.dtype)
    if dtype.kind == "f":
        return draw.random(shape).astype(dtype)
    return draw.integers(0, 100 if dtype.itemsize == 1 else 2, shape).astype(dtype)


if __name__ == "__main__":
    sys.exit(main())
