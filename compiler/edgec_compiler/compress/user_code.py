"""The user's own training and students: FILE.py:FUNCTION, called in the worker."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from edgec_compiler.compress.wanted import file_of, function_of
from edgec_compiler.errors import CompilerError, TrainingError
from edgec_compiler.importers.python_file import load_function, where


def train_by(
    named: str, module: nn.Module, teacher: nn.Module, seed: int, say: Callable[[str], None]
) -> None:
    """Call the user's ``function(module, teacher)``, which trains `module` in place.

    It may return `module`, or another module of the same class and weights' names, whose weights
    are then taken. What it prints is told line by line.

    Raises:
        TrainingError: it fails, or returns something else.
    """
    torch.manual_seed(seed)
    module.train()
    made = _call(named, say, module, teacher)
    module.eval()
    if made is not None and made is not module:
        _take_over(named, module, made)
    if not all(bool(torch.isfinite(weight).all()) for weight in module.parameters()):
        raise TrainingError(f"{named} leaves weights that are not finite: its training diverged")


def _take_over(named: str, module: nn.Module, made: object) -> None:
    if not isinstance(made, nn.Module):
        raise TrainingError(
            f"{named} must return None or the module that it trained, not {type(made).__name__}"
        )
    try:
        module.load_state_dict(made.state_dict())
    except RuntimeError as error:
        raise TrainingError(
            f"{named} returned a module with other weights than it was given: train the given "
            "module in place"
        ) from error


def make_student(named: str, seed: int, say: Callable[[str], None]) -> nn.Module:
    """Return what the user's factory makes: a module, or (module, example inputs).

    Raises:
        TrainingError: it fails, or returns something else.
    """
    torch.manual_seed(seed)
    made = _call(named, say)
    module = made[0] if isinstance(made, tuple) and made else made
    if not isinstance(module, nn.Module):
        raise TrainingError(
            f"{named} must return a torch module, or (module, (example input, ...)): got "
            f"{type(made).__name__}"
        )
    return module


def _call(named: str, say: Callable[[str], None], *arguments: Any) -> Any:
    file = file_of(named)
    with contextlib.redirect_stdout(_Lines(say)):
        try:
            with load_function(file, function_of(named)) as function:
                return function(*arguments)
        except CompilerError:
            raise
        except Exception as error:  # the user's own code runs here
            raise TrainingError(where(file, error)) from error


class _Lines(io.TextIOBase):
    """A text stream that tells every line that is written to it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say, self._rest = say, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                self._say(line.rstrip()[:200])
        return len(text)
