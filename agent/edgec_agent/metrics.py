"""What Prometheus reads at /metrics: text format 0.0.4, every name with the prefix edgec_.

The counts mean what Triton's of the same name mean: a request is one call, an inference one row.
"""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from edgec_agent.host import ModelHost
from edgec_agent.memory import resident_bytes
from edgec_agent.stats import Totals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Samples = Iterable[tuple[str, Labels, float]]  # suffix of the name, labels, value


class HttpCounts:
    """How many responses of each status were sent, and how many connections are open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._responses: Counter[int] = Counter()
        self._connections = 0

    def responded(self, status: int) -> None:
        """Count one response."""
        with self._lock:
            self._responses[status] += 1

    def connected(self, change: int) -> None:
        """Count a connection in (1) or out (-1)."""
        with self._lock:
            self._connections += change

    def snapshot(self) -> tuple[dict[int, int], int]:
        """Return responses by status, and open connections."""
        with self._lock:
            return dict(self._responses), self._connections


def agent_version() -> str:
    """Return the version of the installed edgec."""
    try:
        return version("edgec")
    except PackageNotFoundError:
        return "unknown"


def render(host: ModelHost, http: HttpCounts) -> bytes:
    """Return everything that is measured, as Prometheus reads it."""
    totals = host.totals()
    families = [*_totals(totals), *_models(host), *_taps(host), *_process(http)]
    return "".join(_family(*family) for family in families).encode()


Family = tuple[str, str, str, Samples]  # name, type, help, samples


def _totals(totals: tuple[Totals, ...]) -> list[Family]:
    one = "edgec_inference_"
    return [
        (f"{one}request_success_total", "counter", "Calls that were answered.",
         [("", _of(t), t.answered) for t in totals]),
        (f"{one}request_failure_total", "counter",
         "Calls that failed: wrong input, the model, or no free turn in time.",
         [("", _of(t) | {"reason": why}, n) for t in totals for why, n in t.failures.items()]),
        (f"{one}count_total", "counter", "Inferences: the rows of all calls that were answered.",
         [("", _of(t), t.rows) for t in totals]),
        (f"{one}duration_seconds", "summary",
         "Time of one call in pre-processing, model and post-processing, since the start.",
         [sample for t in totals for sample in _summary(t)]),
    ]  # fmt: skip


def _summary(totals: Totals) -> Samples:
    latency = totals.latency_ms
    for q, ms in (("0.5", latency.p50), ("0.95", latency.p95), ("0.99", latency.p99)):
        yield "", _of(totals) | {"quantile": q}, float("nan") if ms is None else ms / 1e3
    yield "_sum", _of(totals), totals.latency_sum_ms / 1e3
    yield "_count", _of(totals), totals.answered


def _models(host: ModelHost) -> list[Family]:
    active = [(name, found) for name in host.models() if (found := host.active(name))]
    return [
        ("edgec_model_active", "gauge", "1 for the manifest that answers a model's calls.",
         [("", {"model": name, "version": s.manifest.version, "manifest": s.digest[:12],
                "profile": s.manifest.profile}, 1) for name, s in active]),
        ("edgec_model_calls_in_flight", "gauge", "Calls that are being answered now.",
         [("", {"model": name}, s.in_flight) for name, s in active]),
        ("edgec_model_swaps_total", "counter", "How often what answers a model was exchanged.",
         [("", {"model": name}, host.swaps(name)) for name, _ in active]),
    ]  # fmt: skip


def _taps(host: ModelHost) -> list[Family]:
    reports = [
        ({"model": name, "other": tap.other.manifest.version}, tap.snapshot())
        for name in host.models()
        for tap in host.taps(name)
    ]
    return [
        ("edgec_tap_rows", "gauge", "Rows judged by the comparison in progress.",
         [("", labels, report.samples) for labels, report in reports]),
        ("edgec_tap_rows_agreed", "gauge", "Rows of them for which both models agreed.",
         [("", labels, report.agreed) for labels, report in reports]),
        ("edgec_tap_calls_dropped", "gauge", "Calls that there was no time to judge.",
         [("", labels, report.dropped) for labels, report in reports]),
    ]  # fmt: skip


def _process(http: HttpCounts) -> list[Family]:
    responses, connections = http.snapshot()
    resident = resident_bytes()
    return [
        ("edgec_http_responses_total", "counter", "HTTP responses by status.",
         [("", {"code": str(code)}, n) for code, n in sorted(responses.items())]),
        ("edgec_http_connections", "gauge", "Open HTTP connections.", [("", {}, connections)]),
        ("edgec_resident_memory_bytes", "gauge", "Memory of the agent's process.",
         [] if resident is None else [("", {}, resident)]),
        ("edgec_build_info", "gauge", "The agent's version.",
         [("", {"version": agent_version()}, 1)]),
    ]  # fmt: skip


def _of(totals: Totals) -> dict[str, str]:
    return {
        "model": totals.model,
        "version": totals.version,
        "manifest": totals.manifest[:12],
    }


def _family(name: str, kind: str, text: str, samples: Samples) -> str:
    lines = [f"{name}{suffix}{_labels(labels)} {_number(n)}\n" for suffix, labels, n in samples]
    if not lines:
        return ""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n" + "".join(lines)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    return str(int(value)) if value == int(value) else repr(float(value))
