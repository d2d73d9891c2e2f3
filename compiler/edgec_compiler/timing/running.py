"""Times one or two models in turns: short rounds, one after the other, so that both meet the same
weather on this machine, and a ratio per round says how far it can be trusted."""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import IO, Any, Self

from edgec_bundle.archive import is_bundle
from edgec_compiler.deaths import how_it_ended, last_lines
from edgec_compiler.errors import CompilerError
from edgec_runtime.bench import Latency, latency_of

WARMUP = 5
ROUNDS = 20


class TimingError(CompilerError):
    """A model cannot be timed here."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured of one model; memory is what loading it and a first run added."""

    cold_ms: float
    warm_ms: float
    first_ms: float
    latency: Latency
    per_second: float
    memory_bytes: int
    process_bytes: int
    runtime: str
    delegates: tuple[str, ...]
    rounds_ms: tuple[float, ...]  # median of each round

    def to_json(self) -> dict[str, Any]:
        """Return the object that `edgec bench --json` prints."""
        latency = {"p50": self.latency.p50, "p95": self.latency.p95, "p99": self.latency.p99}
        return {
            "load_ms": {"cold": round(self.cold_ms, 3), "warm": round(self.warm_ms, 3)},
            "first_ms": round(self.first_ms, 4),
            "latency_ms": {name: round(value, 4) for name, value in latency.items()},
            "runs": self.latency.runs,
            "per_second": round(self.per_second, 2),
            "memory_bytes": self.memory_bytes,
            "process_bytes": self.process_bytes,
            "runtime": self.runtime,
            "delegates": list(self.delegates),
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """How long one model takes in terms of another: median over the rounds, and where 8 in 10 lie.

    Each is the first's time over the other's: below 1, the first is faster.
    """

    median: float
    low: float
    high: float

    def words(self) -> str:
        """Return what the ratio says, and what it cannot say."""
        spread = f"8 of 10 rounds lie between {self.low:.3f} and {self.high:.3f}"
        if self.low <= 1 <= self.high:
            return f"no difference can be told here: the ratio is {self.median:.3f}, and {spread}"
        faster, factor = ("faster", 1 / self.median) if self.median < 1 else ("slower", self.median)
        return f"{factor:.2f}x {faster}: the ratio is {self.median:.3f}; {spread}"


def ratio_of(one: Sequence[float], other: Sequence[float]) -> Ratio:
    """Return how two models' rounds compare; the rounds are paired in time."""
    found = sorted(a / b for a, b in zip(one, other, strict=True))
    tenth = len(found) // 10
    return Ratio(median(found), found[tenth], found[len(found) - 1 - tenth])


def time_in_turns(
    paths: Sequence[str], shapes: Sequence[str] = (), *, runs: int, threads: int, whole: bool
) -> tuple[Timing, ...]:
    """Return the timing of each model at `paths`, loaded in processes of their own.

    Args:
        paths: bundles or model files.
        shapes: of the model files' inputs, as `--shape`.
        runs: inferences of each, after WARMUP that do not count.
        threads: that one inference may use.
        whole: from raw input to final output, for bundles; else the model file alone, on noise.

    Raises:
        TimingError: a model cannot be loaded or run here.
    """
    timed = []
    child_of = partial(_Child, shapes=shapes, threads=threads, whole=whole)
    for path in paths:  # one after the other: a load must meet an idle machine
        with child_of(path) as child:
            timed.append(child.loaded)
    children = [child_of(path) for path in paths]
    try:
        durations: list[list[list[float]]] = [[] for _ in children]
        for child in children:
            child.run(WARMUP)
        rounds = min(ROUNDS, runs)
        for number in range(rounds):
            share = runs * (number + 1) // rounds - runs * number // rounds
            for place, child in enumerate(children):
                durations[place].append(child.run(share))
        peaks = [child.process_bytes for child in children]
    finally:
        for child in children:
            child.close()
    return tuple(map(_timing, timed, durations, peaks))


def load_times(path: str) -> tuple[dict[str, float], float]:
    """Return ({"cold": ms, "warm": ms}, milliseconds of the first inference). Raises TimingError.

    Cold: in a fresh process, the runtime's import included, files read from the disk.
    """
    with _Child(path, threads=1, whole=True) as child:
        found = child.loaded
    load = {"cold": round(found["cold_ms"], 3), "warm": round(found["warm_ms"], 3)}
    return load, round(found["first_ms"], 4)


def _timing(
    loaded: Mapping[str, Any], rounds: Sequence[Sequence[float]], process_bytes: int
) -> Timing:
    everything = [value for one in rounds for value in one]
    return Timing(
        cold_ms=loaded["cold_ms"],
        warm_ms=loaded["warm_ms"],
        first_ms=loaded["first_ms"],
        latency=latency_of(everything),
        per_second=1e3 * len(everything) / math.fsum(everything),
        memory_bytes=loaded["memory_bytes"],
        process_bytes=process_bytes,
        runtime=loaded["runtime"],
        delegates=tuple(loaded["delegates"]),
        rounds_ms=tuple(median(one) for one in rounds),
    )


class _Child:
    """One model in its own process."""

    def __init__(self, path: str, shapes: Sequence[str] = (), *, threads: int, whole: bool) -> None:
        self._path = path
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        own = [] if is_bundle(Path(path)) else list(shapes)
        job = json.dumps({"path": path, "shapes": own, "threads": threads, "whole": whole})
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "edgec_compiler.timing.child", job],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.process_bytes = 0
        try:
            self.loaded = self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def run(self, count: int) -> list[float]:
        """Return the milliseconds of `count` inferences. Raises TimingError."""
        with suppress(BrokenPipeError):  # it died; how, the missing answer says
            print(count, file=_pipe(self._process.stdin), flush=True)
        answer = self._answer()
        self.process_bytes = int(answer["process_bytes"])
        return [float(value) for value in answer["durations_ms"]]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            _pipe(pipe).close()
        self._log.close()

    def _answer(self) -> dict[str, Any]:
        line = _pipe(self._process.stdout).readline()
        if not line:
            how, said = how_it_ended(self._process.wait()), last_lines(self._log)[-3:]
            raise TimingError(f"{self._path}: its process {how}: {' | '.join(said)}", 1)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TimingError(str(answer["error"]), int(answer["exit_code"]))
        return answer


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("the child was started without a pipe")
    return pipe
