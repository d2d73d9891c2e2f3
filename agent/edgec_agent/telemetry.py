"""Windows of what was served, as messages: aggregates only, never a request or an input."""

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from edgec_agent.stats import Latency
from edgec_agent.stats import Window as Served
from edgec_bundle.errors import MessageError
from edgec_bundle.messages import (
    Counts,
    Host,
    ModelTelemetry,
    Percentiles,
    Telemetry,
    Window,
    new_id,
    rfc3339,
)


def report(
    windows: Iterable[Served], boot_id: str, now: datetime, host: Host
) -> tuple[Telemetry, ...]:
    """Return what `windows` say, as few messages as can be: one, unless a model was swapped.

    A message has room for one manifest of each model. Windows without a request are left out.
    """
    messages: list[dict[str, Served]] = []
    for window in windows:
        if window.requests:
            free = next((one for one in messages if window.model not in one), None)
            if free is None:
                messages.append(free := {})
            free[window.model] = window
    return tuple(
        Telemetry(
            at=rfc3339(now),
            boot_id=boot_id,
            window=Window(
                start=rfc3339(min(w.start for w in served.values())),
                end=rfc3339(max(w.end for w in served.values())),
            ),
            models={model: _model(window) for model, window in served.items()},
            host=host,
        )
        for served in messages or [{}]
        if served
    )


def _model(served: Served) -> ModelTelemetry:
    return ModelTelemetry(
        manifest=served.manifest,
        requests=served.requests,
        failed=served.failed,
        latency_ms=_percentiles(served.latency_ms),
        histograms={
            name: Counts(edges=one.edges, counts=one.counts)
            for name, one in served.histograms.items()
        },
    )


def _percentiles(latency: Latency | None) -> Percentiles | None:
    match latency:
        case Latency(float() as p50, float() as p95, float() as p99):
            return Percentiles(p50=p50, p95=p95, p99=p99)
    return None


def merge(older: Telemetry, newer: Telemetry) -> Telemetry:
    """Return one window in place of two that follow each other.

    Counts add up. Percentiles can't be added: the larger one stands for both, so that a merged
    window never looks better than it was.

    Raises:
        MessageError: a model ran another manifest, or counted over other edges.
    """
    models = dict(older.models)
    for name, model in newer.models.items():
        models[name] = _sum(models[name], model) if name in models else model
    return replace(
        newer,
        id=new_id(),
        window=Window(start=older.window.start, end=newer.window.end),
        models=models,
    )


def _sum(older: ModelTelemetry, newer: ModelTelemetry) -> ModelTelemetry:
    if older.manifest != newer.manifest:
        raise MessageError("expected two windows of the same manifest")
    return ModelTelemetry(
        manifest=newer.manifest,
        requests=older.requests + newer.requests,
        failed=older.failed + newer.failed,
        latency_ms=_slower(older.latency_ms, newer.latency_ms),
        histograms=_add(older.histograms, newer.histograms),
    )


def _slower(one: Percentiles | None, two: Percentiles | None) -> Percentiles | None:
    if one is None or two is None:
        return one or two
    return Percentiles(
        p50=max(one.p50, two.p50), p95=max(one.p95, two.p95), p99=max(one.p99, two.p99)
    )


def _add(one: Mapping[str, Counts], two: Mapping[str, Counts]) -> dict[str, Counts]:
    total = dict(one)
    for name, counts in two.items():
        if name not in total:
            total[name] = counts
        elif total[name].edges != counts.edges:
            raise MessageError(f"{name}: expected histograms over the same edges")
        else:
            pairs = zip(total[name].counts, counts.counts, strict=True)
            total[name] = Counts(edges=counts.edges, counts=tuple(a + b for a, b in pairs))
    return total


class HostMeter:
    """Measures this process and its board; what the system does not say is None."""

    def __init__(self) -> None:
        self._wall = time.monotonic()
        self._busy = time.process_time()

    def read(self) -> Host:
        """Return what is so now; `cpu` is the share of all cores since the last call, 0..1."""
        wall, busy = time.monotonic(), time.process_time()
        elapsed = (wall - self._wall) * (os.cpu_count() or 1)
        cpu = min(1.0, max(0.0, (busy - self._busy) / elapsed)) if elapsed > 0 else None
        self._wall, self._busy = wall, busy
        return Host(memory_bytes=_resident(), cpu=cpu, temperature_c=_temperature())


def _resident() -> int | None:
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _temperature() -> float | None:
    try:
        found = int(Path("/sys/class/thermal/thermal_zone0/temp").read_text()) / 1000
    except (OSError, ValueError):
        return None
    return found if -100 < found < 200 else None
