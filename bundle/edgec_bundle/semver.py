"""Versions of models, and their order: Semantic Versioning 2.0.0."""

import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Self

from edgec_bundle.errors import ManifestError

MAX_CHARACTERS = 64

_NUMBER = r"(?:0|[1-9][0-9]{0,15})"
_IDENTIFIER = rf"(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"({_NUMBER})\.({_NUMBER})\.({_NUMBER})"
    rf"(?:-({_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
    r"(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class SemVer:
    """One version. Compares by precedence (section 11), so build metadata doesn't count."""

    major: int
    minor: int
    patch: int
    prerelease: tuple[str, ...] = ()
    build: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Return the version written as `text`, the inverse of str().

        Raises:
            ManifestError: `text` is not MAJOR.MINOR.PATCH[-PRERELEASE][+BUILD].
        """
        found = (
            _SEMVER.fullmatch(text)
            if isinstance(text, str) and len(text) <= MAX_CHARACTERS
            else None
        )
        if found is None:
            raise ManifestError(f"expected a version like 1.2.3, got {str(text)[:80]!r}")
        major, minor, patch, prerelease, build = found.groups()
        return cls(
            int(major),
            int(minor),
            int(patch),
            tuple(prerelease.split(".")) if prerelease else (),
            tuple(build.split(".")) if build else (),
        )

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        if self.prerelease:
            text += "-" + ".".join(self.prerelease)
        if self.build:
            text += "+" + ".".join(self.build)
        return text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SemVer) and self._precedence() == other._precedence()

    def __lt__(self, other: Self) -> bool:
        return self._precedence() < other._precedence()

    def __hash__(self) -> int:
        return hash(self._precedence())

    def _precedence(self) -> tuple[object, ...]:
        identifiers = tuple(
            (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in self.prerelease
        )
        released = not self.prerelease  # 1.0.0-rc.1 < 1.0.0
        return (self.major, self.minor, self.patch, released, identifiers)
