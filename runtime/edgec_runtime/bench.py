"""How long one inference takes, and how much memory this process has taken."""

import math
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgec_runtime.data import Data
from edgec_runtime.pipeline import Pipeline
from edgec_runtime.processing import RawInput

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of one inference of one row, raw input to final output."""

    p50: float
    p95: float
    p99: float
    runs: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """Latency, and the peak of this process's resident memory."""

    latency_ms: Latency
    memory_bytes: int


def measure(
    pipeline: Pipeline, inputs: Mapping[str, RawInput], runs: int = 50, warmup: int = 5
) -> Measurement:
    """Run single rows of `inputs` in turn, `runs` times, after `warmup` runs that do not count.

    Raises:
        InputError, ModelError, OutputError: as `Pipeline.infer`.
    """
    if runs < 1:
        raise ValueError(f"expected at least 1 run, got {runs}")
    data = Data(inputs)
    rows = [data.rows(i, i + 1).inputs for i in range(min(len(data), runs))]
    for turn in range(warmup):
        pipeline.infer(rows[turn % len(rows)])
    durations = []
    for turn in range(runs):
        start = time.perf_counter_ns()
        pipeline.infer(rows[turn % len(rows)])
        durations.append((time.perf_counter_ns() - start) / 1e6)
    return Measurement(latency_of(durations), peak_bytes())


def latency_of(milliseconds: Sequence[float]) -> Latency:
    """Return the quantiles of durations (nearest rank: each is one that really occurred)."""
    ordered = sorted(milliseconds)

    def quantile(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return Latency(quantile(0.50), quantile(0.95), quantile(0.99), len(ordered))


def resident_bytes() -> int:
    """Return the memory of this process that is resident now; its peak where /proc is absent."""
    return _status("VmRSS") or peak_bytes()


def peak_bytes() -> int:
    """Return the largest memory of this process that was resident at once, since `reset_peak`.

    Linux counts ru_maxrss from the parent's size at fork on, so VmHWM is read where it exists.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> None:
    """Let `peak_bytes` start anew from what is resident now, where the kernel can do it."""
    with suppress(OSError):
        _CLEAR_REFS.write_text(_RESET_PEAK)


def _status(key: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None
