"""What one `edgec compile` was asked to do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from edgec_compiler.compress.wanted import Wanted

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
    float_layers: tuple[str, ...] = ()
    calibration_method: str = "minmax"
    equalise: bool = False
    bias_correction: bool = False
    max_accuracy_drop: float | None = None  # None: 0.01 where there are labels, else no limit
    optimize_for: str = "speed"  # or "size": what --precision auto makes best
    search_budget: float | None = None  # seconds for the search of each target
    max_candidates: int = 32  # of each target
    max_layers: int = 32  # that a sensitivity analysis measures
    delta_base: str | None = None
    delta_budget: float = 1.0  # times the error of ordinary quantisation
    seed: int = 0
    lock: str | None = None
    locked: str | None = None
    unlike: tuple[str, ...] = ()  # how options and profiles differ from `locked`, in words
    jobs: int | None = None  # None: as many as cores and memory allow
    cache: str | None = None  # a folder; None: neither read nor written
    compress: Wanted = field(default_factory=Wanted)
    noise_ranges: bool = False  # noise where calibration data is missing: to see the operators only

    @property
    def calibrated(self) -> bool:
        """Whether there is something to learn the ranges of activations from."""
        return self.calibration is not None or self.noise_ranges

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Return the options that `to_dict` wrote."""
        lists = {key: tuple(raw[key]) for key in ("targets", "shapes", "float_layers", "unlike")}
        return cls(**{**raw, **lists, "compress": Wanted(**raw["compress"])})
