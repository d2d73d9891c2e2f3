"""`telemetry`: aggregates of a time window, never single requests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from edgec_bundle.errors import MessageError
from edgec_bundle.messages.message import Message, parse_rfc3339


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """From `start` until `end` by the device's clock, RFC 3339."""

    start: str
    end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of latencies, in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A histogram: ``counts[i]`` values fell between ``edges[i]`` and ``edges[i + 1]``."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTelemetry:
    """What one model, in one version, did in the window."""

    manifest: str
    requests: int
    failed: int
    latency_ms: Percentiles | None = None
    histograms: Mapping[str, Counts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The device itself, at the end of the window."""

    memory_bytes: int | None = None  # resident size of the agent
    cpu: float | None = None  # share of all cores, 0..1
    temperature_c: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry(Message):
    """Device to server, one per window."""

    KIND: ClassVar[str] = "telemetry"
    MAX_BYTES: ClassVar[int] = 256 * 1024

    boot_id: str
    window: Window
    models: Mapping[str, ModelTelemetry] = field(default_factory=dict)
    host: Host = field(default_factory=Host)

    def check(self) -> None:
        """Raise MessageError for what JSON Schema can't say."""
        for time in (self.at, self.window.start, self.window.end):
            parse_rfc3339(time)
        for model in self.models.values():
            for name, histogram in model.histograms.items():
                if len(histogram.edges) != len(histogram.counts) + 1:
                    raise MessageError(f"{name}: expected one edge more than counts")
