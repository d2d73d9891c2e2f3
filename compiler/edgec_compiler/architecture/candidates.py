"""What is searched: multipliers, what a net of that size costs on a target, and what is allowed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from edgec_hardware_profiles import Profile

WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.5)
DEPTHS = (0.5, 1.0, 1.5)


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """One net of a recipe, by its multipliers of channels and of blocks."""

    width: float
    depth: float

    @property
    def name(self) -> str:
        """Return "w0.5-d1", which names its files too."""
        return f"w{self.width:g}-d{self.depth:g}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """What an untrained net costs on the target, at the target's precision."""

    parameters: int
    macs: int
    model_bytes: int  # the file that devices get: flash, where there is any
    activation_bytes: int  # that live at once: RAM, where weights stay in flash
    memory_bytes: int  # weights and activations together
    latency_ms: float | None  # of one inference; None: the profile has no rates to tell it by
    estimated_by: str | None  # "vela" | "roofline"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Return the sizes that `to_dict` wrote."""
        return cls(**raw)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a net may cost; None: as much as it likes."""

    latency_ms: float | None = None
    memory_bytes: int | None = None
    activation_bytes: int | None = None
    model_bytes: int | None = None

    def broken_by(self, sizes: Sizes) -> str | None:
        """Return which limits `sizes` exceed and by how much, or None."""
        needs = (
            (sizes.memory_bytes, self.memory_bytes, "needs {} bytes of memory"),
            (sizes.activation_bytes, self.activation_bytes, "needs {} bytes for activations"),
            (sizes.model_bytes, self.model_bytes, "its file has {} bytes"),
        )
        said = [
            f"{words.format(used)}, allowed are {most}"
            for used, most, words in needs
            if most is not None and used > most
        ]
        if self.latency_ms is not None and (sizes.latency_ms or 0.0) > self.latency_ms:
            said.append(f"takes {sizes.latency_ms:.3f} ms, allowed are {self.latency_ms:g}")
        return "; ".join(said) or None

    def within(self, profile: Profile) -> "Limits":
        """Return these limits, and what the device itself has, where it is less."""
        flash = profile.storage_bytes is not None
        ram = profile.memory_bytes
        return replace(
            self,
            memory_bytes=_least(self.memory_bytes, None if flash else ram),
            activation_bytes=_least(self.activation_bytes, ram if flash else None),
            model_bytes=_least(self.model_bytes, profile.storage_bytes),
        )


def _least(*limits: int | None) -> int | None:
    return min((one for one in limits if one is not None), default=None)


def grid(widths: Sequence[float], depths: Sequence[float]) -> tuple[Candidate, ...]:
    """Return every pair, narrow and shallow ones first."""
    return tuple(sorted({Candidate(width, depth) for width in widths for depth in depths}))


def without_twins(sizes: Mapping[Candidate, Sizes]) -> tuple[Candidate, ...]:
    """Return the candidates, of equal nets the first: rounding makes some multipliers alike."""
    seen: dict[Sizes, Candidate] = {}
    for candidate in sorted(sizes):
        seen.setdefault(sizes[candidate], candidate)
    return tuple(sorted(seen.values()))


def pareto(
    scores: Mapping[Candidate, float], sizes: Mapping[Candidate, Sizes]
) -> frozenset[Candidate]:
    """Return the candidates that no other beats in score, latency and size at once."""

    def worth(one: Candidate) -> tuple[float, float, int]:
        size = sizes[one]
        return scores[one], -(size.latency_ms or 0.0), -size.model_bytes

    def beaten(one: Candidate, others: Iterable[Candidate]) -> bool:
        mine = worth(one)
        return any(
            worth(other) != mine and all(a >= b for a, b in zip(worth(other), mine, strict=True))
            for other in others
        )

    return frozenset(one for one in scores if not beaten(one, scores))
