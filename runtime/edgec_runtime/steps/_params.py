"""Reads the parameters of one step of a manifest, and says plainly which one is wrong."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from edgec_runtime.errors import SpecError

MAX_LIST = 65_536


class Misfit(Exception):
    """A value that a step refuses; `row` counts within the batch at hand. Becomes a StepError."""

    def __init__(self, problem: str, row: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.row = row


class Params:
    """The members of one step, each read once by kind; what nobody reads is an error."""

    def __init__(self, step: Mapping[str, Any], where: str) -> None:
        self._step = step
        self._where = where
        self._read = {"op"}

    def fail(self, key: str, problem: str) -> NoReturn:
        """Raise SpecError about `key`."""
        raise SpecError(f"{self._where}: '{key}': {problem}")

    def refuse_unread(self) -> None:
        """Raise SpecError if the step says something that nobody asked for."""
        unknown = sorted(self._step.keys() - self._read)
        if unknown:
            self.fail(unknown[0], f"unknown; known here: {', '.join(sorted(self._read))}")

    def has(self, key: str) -> bool:
        """Return whether the step has `key` with a value other than null."""
        self._read.add(key)
        return self._step.get(key) is not None

    def _get(self, key: str, expected: str) -> Any:
        if not self.has(key):
            self.fail(key, f"missing; expected {expected}")
        return self._step[key]

    def text(self, key: str) -> str:
        """Return a string."""
        value = self._get(key, "a string")
        if not isinstance(value, str):
            self.fail(key, f"expected a string, got {value!r}")
        return value

    def choice(self, key: str, known: Sequence[str], default: str | None = None) -> str:
        """Return one of `known`."""
        if default is not None and not self.has(key):
            return default
        value = self._get(key, f"one of {', '.join(known)}")
        if value not in known:
            self.fail(key, f"expected one of {', '.join(known)}, got {value!r}")
        return str(value)

    def boolean(self, key: str, default: bool) -> bool:
        """Return true or false."""
        if not self.has(key):
            return default
        value = self._step[key]
        if not isinstance(value, bool):
            self.fail(key, f"expected true or false, got {value!r}")
        return value

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer in low..high."""
        if default is not None and not self.has(key):
            return default
        return self._integer(key, self._get(key, "an integer"), low, high)

    def _integer(self, key: str, value: Any, low: int, high: int) -> int:
        # A manifest's canonical JSON cannot tell 5.0 from 5.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            self.fail(key, f"expected an integer in {low}..{high}, got {value!r}")
        return value

    def integers(self, key: str, count: int, low: int, high: int) -> tuple[int, ...]:
        """Return exactly `count` integers in low..high."""
        value = self._get(key, f"{count} integers")
        if not isinstance(value, list | tuple) or len(value) != count:
            self.fail(key, f"expected {count} integers, got {value!r}")
        return tuple(self._integer(key, item, low, high) for item in value)

    def is_list(self, key: str) -> bool:
        """Return whether `key` holds a list."""
        return self.has(key) and isinstance(self._step[key], list | tuple)

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number."""
        if default is not None and not self.has(key):
            return default
        return self._number(key, self._get(key, "a number"))

    def positive(self, key: str) -> float:
        """Return a finite number above 0."""
        value = self.number(key)
        if value <= 0:
            self.fail(key, f"expected a number above 0, got {value!r}")
        return value

    def _number(self, key: str, value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            self.fail(key, f"expected a finite number, got {value!r}")
        return float(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        """Return one number or a list of them, as a tuple that is not empty."""
        value = self._get(key, "a number or a list of numbers")
        items = value if isinstance(value, list | tuple) else [value]
        if not 0 < len(items) <= MAX_LIST:
            self.fail(key, f"expected 1 to {MAX_LIST} numbers, got {len(items)}")
        return tuple(self._number(key, item) for item in items)

    def positives(self, key: str) -> tuple[float, ...]:
        """Return like `numbers`, each above 0."""
        values = self.numbers(key)
        if min(values) <= 0:
            self.fail(key, f"expected numbers above 0, got {min(values)!r}")
        return values
