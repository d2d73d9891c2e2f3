"""What one `edgec compile` was asked to do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

DEFAULT_MAX_DROP = 0.01
GOLDEN_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """Options of a compile run; paths are absolute or relative to the working directory."""

    model: str
    targets: tuple[str, ...]
    out: str
    format: str | None = None
    name: str | None = None
    version: str = "0.1.0"
    release: int = 1
    shapes: tuple[str, ...] = ()
    calibration: str | None = None
    evaluation: str | None = None
    preprocessing: str | None = None
    labels: str | None = None
    precision: str = "auto"
    max_accuracy_drop: float | None = None  # None: 0.01 where there are labels, else no limit
    delta_base: str | None = None
    delta_budget: float = 1.0  # times the error of ordinary quantisation
    seed: int = 0
    lock: str | None = None
    locked: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Return the options that `to_dict` wrote."""
        lists = {key: tuple(raw[key]) for key in ("targets", "shapes")}
        return cls(**{**raw, **lists})
