"""What one `edgec compare` was asked to do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """Options of a comparison; paths are absolute or relative to the working directory."""

    model: str
    bundle: str
    data: str
    preprocessing: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """Return the options that `to_dict` wrote."""
        return cls(**raw)
