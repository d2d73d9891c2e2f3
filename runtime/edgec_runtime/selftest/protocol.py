"""What parent and child of a self-test say to each other.

Job, on the child's stdin: 4 bytes big-endian length, a JSON header of that length, then the blobs
that the header lists, one after the other. Result, on its stdout: one JSON object, then the end.
The child has loaded a model that nobody has tried before, so the parent believes nothing of what
it says before `parse_result` has checked it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from edgec_runtime.acceptance import AcceptanceResult
from edgec_runtime.bench import Latency
from edgec_runtime.golden import GoldenResult

VERSION = 1
MAX_HEADER_BYTES = 1 << 16
MAX_RESULT_BYTES = 1 << 20
ROLES = ("manifest", "golden", "labels", "model", "acceptance")  # in the order sent

Cause = Literal[
    "refused",  # the child says that the bundle cannot be run
    "crashed",  # a signal or a non-zero exit ended it
    "timeout",  # it took too long
    "memory",  # it took too much memory
    "launcher",  # it could not be started
    "protocol",  # it ended well, but what it said makes no sense
]


@dataclass(frozen=True, slots=True)
class Job:
    """The header of a job."""

    blobs: tuple[tuple[str, int], ...]  # role, bytes
    runs: int
    threads: int
    timeout_s: float
    memory_bytes: int | None
    minimum: float | None  # of the acceptance set
    metric: str

    def to_bytes(self) -> bytes:
        """Return length and header; the blobs follow."""
        payload = json.dumps({"v": VERSION, **asdict(self)}).encode()
        return len(payload).to_bytes(4, "big") + payload

    @classmethod
    def from_bytes(cls, payload: bytes) -> "Job":
        """Read a header (without its length). Raises ValueError."""
        raw = json.loads(payload)
        if not isinstance(raw, dict) or raw.pop("v", None) != VERSION:
            raise ValueError(f"expected a self-test job of version {VERSION}")
        raw["blobs"] = tuple((str(role), int(size)) for role, size in raw["blobs"])
        try:
            return cls(**raw)
        except TypeError as error:
            raise ValueError(f"malformed job: {error}") from error


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """What came of a self-test. `reasons` says in words why it did not pass; empty: it passed."""

    golden: GoldenResult | None = None
    acceptance: AcceptanceResult | None = None
    latency_ms: Latency | None = None
    memory_bytes: int | None = None  # what loading and running the model added at its peak
    process_bytes: int | None = None  # peak of the whole child
    delegates: tuple[str, ...] = ()  # what executed the model
    error: str | None = None
    cause: Cause | None = None
    stderr: str = ""  # the end of what the child said there
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything that was asked for was done, and nothing was wrong."""
        return not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """Return the result for an event's evidence: plain JSON values, without `stderr`."""
        evidence = asdict(self)
        del evidence["stderr"]
        evidence["delegates"] = list(self.delegates)
        evidence["reasons"] = list(self.reasons)
        if self.golden is not None:
            evidence["golden"]["failed"] = list(self.golden.failed)
        return evidence


def result_to_bytes(result: SelfTestResult) -> bytes:
    """Return what the child sends."""
    evidence = result.to_dict()
    if result.golden is not None and math.isinf(result.golden.worst_error):
        evidence["golden"]["worst_error"] = None
    return json.dumps(evidence, allow_nan=False).encode()


def parse_result(payload: bytes) -> SelfTestResult:
    """Read what a child sent, checking every value. Raises ValueError."""
    try:
        raw = json.loads(payload)
    except RecursionError as deep:
        raise ValueError("nested too deeply") from deep
    if not isinstance(raw, dict):
        raise ValueError("expected an object")
    error = raw.get("error")
    cause = raw.get("cause")
    if (error is None) != (cause is None) or not (cause is None or cause in get_args(Cause)):
        raise ValueError("error and cause do not match")
    delegates = raw.get("delegates")
    if not isinstance(delegates, list) or len(delegates) > 16:
        raise ValueError("expected a list of delegates")
    return SelfTestResult(
        golden=_golden(raw.get("golden")),
        acceptance=_acceptance(raw.get("acceptance")),
        latency_ms=_latency(raw.get("latency_ms")),
        memory_bytes=_optional_count(raw.get("memory_bytes")),
        process_bytes=_optional_count(raw.get("process_bytes")),
        delegates=tuple(str(name)[:32] for name in delegates),
        error=None if error is None else str(error)[:1000],
        cause=cause,
    )


def _golden(raw: Any) -> GoldenResult | None:
    if raw is None:
        return None
    raw = _members(raw, ("passed", "samples", "worst_error", "failed"))
    worst = math.inf if raw["worst_error"] is None else _number(raw["worst_error"])
    if not isinstance(raw["failed"], list):
        raise ValueError("expected a list of failed samples")
    failed = tuple(_count(item) for item in raw["failed"])
    return GoldenResult(not failed and _flag(raw["passed"]), _count(raw["samples"]), worst, failed)


def _acceptance(raw: Any) -> AcceptanceResult | None:
    if raw is None:
        return None
    raw = _members(raw, ("score", "minimum", "samples", "passed"))
    score, minimum = _number(raw["score"]), _number(raw["minimum"])
    passed = _flag(raw["passed"]) and score >= minimum
    return AcceptanceResult(score, minimum, _count(raw["samples"]), passed)


def _latency(raw: Any) -> Latency | None:
    if raw is None:
        return None
    raw = _members(raw, ("p50", "p95", "p99", "runs"))
    p50, p95, p99 = (_number(raw[name]) for name in ("p50", "p95", "p99"))
    return Latency(p50, p95, p99, _count(raw["runs"]))


def _members(raw: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(raw, dict) or raw.keys() != set(names):
        raise ValueError(f"expected an object of {', '.join(names)}")
    return raw


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("expected true or false")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError("expected a count")
    return value


def _optional_count(value: Any) -> int | None:
    return None if value is None else _count(value)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not (math.isfinite(value) and value >= 0):
        raise ValueError("expected a number of at least 0")
    return float(value)
