"""The child of a self-test: reads a job, tries the bundle, writes the result.

Its limits are set here, in the child, so that they hold whatever launcher started it.
"""

import importlib
import os
import resource
import signal
import sys
from typing import BinaryIO

from edgec_bundle.errors import BundleError
from edgec_bundle.manifest import MAX_MANIFEST_BYTES, Manifest
from edgec_runtime import bench
from edgec_runtime.acceptance import check_acceptance
from edgec_runtime.bench import Latency, measure
from edgec_runtime.errors import DataError, RunError
from edgec_runtime.golden import check_golden, read_golden
from edgec_runtime.pipeline import load_pipeline
from edgec_runtime.selftest.protocol import MAX_HEADER_BYTES, Job, SelfTestResult, result_to_bytes

# Address space counts reservations, such as one arena of 64 MiB per thread, that never become
# resident; the parent watches what is resident. This only stops a single huge allocation.
_ADDRESS_HEADROOM = 1 << 30
_GRACE_S = 5  # after which the child ends itself if the parent has not
_BACKENDS = {"onnxruntime": "onnx", "litert": "litert"}
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "Failed to allocate memory")


class _Blobs:
    """The blobs of a job, read from the pipe in the order in which they come."""

    def __init__(self, stream: BinaryIO, job: Job) -> None:
        self._stream = stream
        self._coming = dict(job.blobs)

    def has(self, role: str) -> bool:
        return role in self._coming

    def read(self, role: str) -> bytes:
        """Return the next blob, which must be `role`."""
        if role not in self._coming or next(iter(self._coming)) != role:
            raise DataError(f"the job has no {role} here")
        size = self._coming.pop(role)
        data = self._stream.read(size)
        if len(data) != size:
            raise DataError(f"the job ends within {role}")
        return data


def main() -> int:
    """Serve one job; return the exit status."""
    out = _take_over_stdout()
    stream = sys.stdin.buffer
    length = int.from_bytes(stream.read(4), "big")
    if not 0 < length <= MAX_HEADER_BYTES:
        print("expected a self-test job on stdin", file=sys.stderr)
        return 2
    try:
        job = Job.from_bytes(stream.read(length))
    except (ValueError, KeyError) as error:
        print(f"expected a self-test job on stdin: {error}", file=sys.stderr)
        return 2
    _limit(job)
    try:
        result = _serve(job, _Blobs(stream, job))
    except MemoryError:
        result = SelfTestResult(error="out of memory", cause="memory")
    except (RunError, BundleError) as error:
        memory = any(sign in str(error) for sign in _OUT_OF_MEMORY)
        result = SelfTestResult(error=str(error), cause="memory" if memory else "refused")
    with os.fdopen(out, "wb") as pipe:
        pipe.write(result_to_bytes(result))
    # Skip the destructors of a runtime that may have been harmed: the result is said.
    sys.stderr.flush()
    os._exit(0)


def _serve(job: Job, blobs: _Blobs) -> SelfTestResult:
    manifest = _manifest(blobs.read("manifest"))
    golden = blobs.read("golden") if blobs.has("golden") else None
    samples = None if golden is None else read_golden(golden, manifest)[0]
    _import_runtime(manifest.runtime.name)
    bench.reset_peak()
    before = bench.resident_bytes()
    pipeline = load_pipeline(manifest, blobs.read, threads=job.threads)
    checked = None
    latency: Latency | None = None
    if golden is not None and manifest.golden is not None and samples is not None:
        checked = check_golden(pipeline, golden, manifest.golden)
        latency = measure(pipeline, samples, job.runs).latency_ms
    taken = max(0, bench.peak_bytes() - before)
    accepted = None
    if job.minimum is not None:
        accepted = check_acceptance(pipeline, blobs.read("acceptance"), job.minimum, job.metric)
    return SelfTestResult(
        golden=checked,
        acceptance=accepted,
        latency_ms=latency,
        memory_bytes=taken,
        process_bytes=bench.peak_bytes(),
        delegates=pipeline.session.delegates,
    )


def _manifest(payload: bytes) -> Manifest:
    if len(payload) > MAX_MANIFEST_BYTES:
        raise DataError("the manifest is too large")
    return Manifest.from_bytes(payload)


def _import_runtime(name: str) -> None:
    """Import what will run the model, so that its size is not taken for the model's."""
    if name in _BACKENDS:
        importlib.import_module(f"edgec_runtime.backends.{_BACKENDS[name]}")
        if name == "litert":
            from edgec_runtime.backends.litert import _interpreter_module

            _interpreter_module()


def _limit(job: Job) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(int(job.timeout_s) + _GRACE_S)  # its default action ends the process
    if job.memory_bytes is not None:
        ceiling = _address_space() + job.memory_bytes + _ADDRESS_HEADROOM
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or ceiling < hard:
            resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))


def _address_space() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _take_over_stdout() -> int:
    """Return a private copy of stdout, and send everything else that is printed to stderr."""
    out = os.dup(1)
    os.dup2(2, 1)
    return out
