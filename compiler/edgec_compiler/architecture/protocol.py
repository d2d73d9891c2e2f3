"""What a recipe file must define, and how it is loaded. Only the search's child process does that.

build(width: float, depth: float) -> nn.Module     an untrained net
example() -> Tensor, or a tuple of them            inputs that it takes, batch 1
train(module, seed: int, epochs: int) -> Module    train on for some epochs; equal calls, equal net
evaluate(module) -> float                          a score on held-out data, greater is better
WIDTHS, DEPTHS                                     optional: the multipliers to try
MIN_EPOCHS                                         optional: after fewer, a score says nothing (1)
"""

import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from edgec_compiler.architecture.candidates import DEPTHS, WIDTHS, Candidate
from edgec_compiler.errors import ModelFileError

_FUNCTIONS = ("build", "example", "train", "evaluate")


class RecipeFile:
    """A loaded recipe; every call of its code that fails says which and why."""

    def __init__(self, path: Path) -> None:
        """Load `path`. Raises ModelFileError if it cannot be run or lacks a function."""
        self._path = path
        before = set(sys.modules)
        self._module = self._load()
        self._imported = set(sys.modules) - before
        for name in _FUNCTIONS:
            if not callable(getattr(self._module, name, None)):
                raise ModelFileError(
                    f"{path}: a recipe needs the functions {', '.join(_FUNCTIONS)}; "
                    f"'{name}' is missing"
                )

    def multipliers(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the widths and depths that the recipe wants to be tried, or the default."""
        return self._numbers("WIDTHS", WIDTHS), self._numbers("DEPTHS", DEPTHS)

    def min_epochs(self) -> int:
        """Return the epochs after which a score says anything."""
        given = getattr(self._module, "MIN_EPOCHS", 1)
        if type(given) is not int or given < 1:
            raise self._wrong("MIN_EPOCHS", "an integer above 0", given)
        return given

    def code(self) -> list[str]:
        """Return the files of the recipe's code: all in its folder, and what it imports itself."""
        found = {self._path.resolve(), *(one.resolve() for one in self._path.parent.glob("*.py"))}
        installed = [Path(folder).resolve() for folder in (sys.prefix, sys.base_prefix)]
        for name in self._imported:
            file = Path(getattr(sys.modules.get(name), "__file__", None) or "").resolve()
            own = not any(file.is_relative_to(folder) for folder in installed)
            if own and file.is_file() and not name.startswith("edgec_"):
                found.add(file)
        return sorted(map(str, found))

    def build(self, candidate: Candidate, seed: int) -> nn.Module:
        """Return the untrained net, its weights drawn from `seed`, in evaluation mode."""
        torch.manual_seed(seed)
        net = self._call("build", candidate.width, candidate.depth)
        if not isinstance(net, nn.Module):
            raise self._wrong("build", "a torch.nn.Module", net)
        return net.eval()

    def example(self) -> tuple[torch.Tensor, ...]:
        """Return inputs of batch 1."""
        made = self._call("example")
        inputs = made if isinstance(made, tuple) else (made,)
        if not inputs or not all(isinstance(one, torch.Tensor) for one in inputs):
            raise self._wrong("example", "a tensor or a tuple of tensors", made)
        return inputs

    def train(self, net: nn.Module, seed: int, epochs: int) -> nn.Module:
        """Return `net` trained on, in evaluation mode."""
        made = self._call("train", net, seed, epochs)
        if not isinstance(made, nn.Module):
            raise self._wrong("train", "the trained module", made)
        return made.eval()

    def evaluate(self, net: nn.Module) -> float | None:
        """Return the score of `net`; None if it is not finite, as where training diverged."""
        with torch.no_grad():
            score = self._call("evaluate", net)
        try:
            number = float(score)
        except (TypeError, ValueError, RuntimeError) as error:
            raise self._wrong("evaluate", "a number", score) from error
        return number if math.isfinite(number) else None

    def _load(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("_edgec_recipe", self._path)
        if spec is None or spec.loader is None:
            raise ModelFileError(f"{self._path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(self._path.parent.resolve()))  # the file's own neighbours
        try:
            spec.loader.exec_module(module)
        except Exception as error:  # the user's own code runs here
            raise ModelFileError(f"{self._path} fails: {_brief(error)}") from error
        return module

    def _numbers(self, name: str, default: Sequence[float]) -> tuple[float, ...]:
        given = getattr(self._module, name, default)
        try:
            numbers = tuple(float(one) for one in given)
        except (TypeError, ValueError) as error:
            raise self._wrong(name, "numbers", given) from error
        if not numbers or not all(0 < one < math.inf for one in numbers):
            raise self._wrong(name, "numbers above 0", given)
        return numbers

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._module, name)(*arguments)
        except Exception as error:  # the user's own code runs here
            raise ModelFileError(f"{self._path}: {name} fails: {_brief(error)}") from error

    def _wrong(self, name: str, expected: str, got: Any) -> ModelFileError:
        shown = repr(got)[:100] if isinstance(got, (int, float, str)) else type(got).__name__
        return ModelFileError(f"{self._path}: {name} must give {expected}, got {shown}")


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
