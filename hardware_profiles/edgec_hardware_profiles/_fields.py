"""Reads the keys of one TOML table by kind, and says plainly which one is wrong."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from edgec_hardware_profiles.errors import MalformedProfileError


class Table:
    """A TOML table that remembers which of its keys were read."""

    def __init__(self, raw: Mapping[str, Any], origin: str, path: str = "") -> None:
        self._raw = raw
        self._origin = origin
        self._path = path
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._raw

    def names(self) -> tuple[str, ...]:
        """Return the keys that there are, in the order of the file."""
        return tuple(self._raw)

    def fail(self, key: str, problem: str) -> NoReturn:
        """Raise MalformedProfileError about `key` of this table."""
        raise MalformedProfileError(self._origin, f"{self._path}{key}: {problem}")

    def refuse_unread(self) -> None:
        """Raise MalformedProfileError if the table has a key that nobody asked for."""
        unknown = sorted(self._raw.keys() - self._read)
        if unknown:
            self.fail(unknown[0], f"unknown key; known here: {', '.join(sorted(self._read))}")

    def _get(self, key: str, kind: type, article: str, *, optional: bool = False) -> Any:
        self._read.add(key)
        if key not in self._raw:
            if optional:
                return None
            self.fail(key, f"missing; expected {article}")
        value = self._raw[key]
        if type(value) is not kind:
            self.fail(key, f"expected {article}, got {value!r}")
        return value

    def text(self, key: str) -> str:
        """Return a string that is not empty."""
        value: str = self._get(key, str, "a string")
        if not value.strip():
            self.fail(key, "expected a string that is not empty")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string, or None if the key is absent."""
        self._read.add(key)
        return self.text(key) if key in self._raw else None

    def matching(self, key: str, pattern: re.Pattern[str]) -> str:
        """Return a string that `pattern` matches in full."""
        value = self.text(key)
        if not pattern.fullmatch(value):
            self.fail(key, f"expected {pattern.pattern}, got '{value}'")
        return value

    def choice(self, key: str, known: Sequence[str], default: str | None = None) -> str:
        """Return one of `known`."""
        self._read.add(key)
        if key not in self._raw and default is not None:
            return default
        value = self.text(key)
        if value not in known:
            self.fail(key, f"expected one of {', '.join(known)}, got '{value}'")
        return value

    def choices(self, key: str, known: Sequence[str]) -> tuple[str, ...]:
        """Return a list of at least one of `known`, each at most once."""
        values = self.texts(key)
        if not values or len(set(values)) != len(values) or not set(values) <= set(known):
            self.fail(key, f"expected a list of different ones of {', '.join(known)}")
        return values

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of strings, empty if the key is absent."""
        values = self._get(key, list, "a list of strings", optional=True) or []
        if not all(type(value) is str and value for value in values):
            self.fail(key, f"expected a list of strings, got {values!r}")
        return tuple(values)

    def boolean(self, key: str, *, default: bool) -> bool:
        """Return true or false."""
        value = self._get(key, bool, "true or false", optional=True)
        return default if value is None else bool(value)

    def integer(self, key: str) -> int:
        """Return an integer."""
        return int(self._get(key, int, "an integer"))

    def optional_integer(self, key: str) -> int | None:
        """Return an integer, or None if the key is absent."""
        self._read.add(key)
        return self.integer(key) if key in self._raw else None

    def optional_number(self, key: str) -> float | None:
        """Return an integer or a float, or None if the key is absent."""
        values = self._one_of_kinds(key, (int, float), "a number")
        return None if values is None else float(values)

    def array(self, key: str, kinds: Sequence[type]) -> tuple[Any, ...]:
        """Return a list of values of `kinds`, empty if the key is absent."""
        values = self._get(key, list, "a list", optional=True) or []
        if not all(type(value) in kinds for value in values):
            self.fail(key, f"expected {' or '.join(kind.__name__ for kind in kinds)} only")
        return tuple(values)

    def text_lists(self, key: str) -> tuple[tuple[str, ...], ...]:
        """Return a list of lists of strings, empty if the key is absent."""
        values = self._get(key, list, "a list of lists of strings", optional=True) or []
        for value in values:
            if type(value) is not list or not value or not all(type(one) is str for one in value):
                self.fail(key, f"expected a list of strings, got {value!r}")
        return tuple(tuple(value) for value in values)

    def tables(self, key: str) -> tuple["Table", ...]:
        """Return a list of tables, empty if the key is absent."""
        values = self._get(key, list, "a list of tables", optional=True) or []
        if not all(type(value) is dict for value in values):
            self.fail(key, "expected a list of tables")
        return tuple(
            Table(value, self._origin, f"{self._path}{key}[{i}].") for i, value in enumerate(values)
        )

    def _one_of_kinds(self, key: str, kinds: Sequence[type], article: str) -> Any:
        self._read.add(key)
        if key in self._raw and type(self._raw[key]) not in kinds:
            self.fail(key, f"expected {article}, got {self._raw[key]!r}")
        return self._raw.get(key)

    def table(self, key: str, *, optional: bool = False) -> "Table":
        """Return the table under `key`; an empty one if it is optional and absent."""
        raw = self._get(key, dict, "a table", optional=optional)
        return Table(raw or {}, self._origin, f"{self._path}{key}.")

    def strings(self) -> dict[str, str]:
        """Return the whole table, every value of which must be a string."""
        return {key: self.text(key) for key in self._raw}

    def numbers(self) -> dict[str, float]:
        """Return the whole table, every value of which must be a number above 0."""
        found = {key: self.optional_number(key) or 0.0 for key in self._raw}
        for key, value in found.items():
            if not value > 0:
                self.fail(key, f"expected a number above 0, got {value:g}")
        return found
