"""Labelled raw samples in disjoint parts, and the files that hold them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Raw samples [N, ...], as a sensor gives them, and their labels int64 [N]."""

    inputs: npt.NDArray[Any]
    labels: Labels

    def first(self, count: int) -> "Split":
        """Return the first `count` samples."""
        return Split(self.inputs[:count], self.labels[:count])

    def save(self, path: Path) -> None:
        """Write an `.npz` with `inputs` and `labels`."""
        np.savez_compressed(path, inputs=self.inputs, labels=self.labels)


@dataclass(frozen=True, slots=True)
class Splits:
    """No sample is in two parts, but calibration may share some with training.

    A search chooses by `validation`, so that `evaluation` still tells the truth about its choice.
    """

    training: Split
    calibration: Split
    evaluation: Split
    acceptance: Split
    validation: Split

    def save(self, out: Path) -> None:
        """Write what a recipe commits: all but what it trains and chooses with."""
        for name in ("calibration", "evaluation", "acceptance"):
            getattr(self, name).save(out / f"{name}.npz")


def drawn(
    sample: Callable[[str, np.random.Generator], npt.NDArray[Any]],
    labels: Sequence[str],
    *,
    training: int,
    calibration: int,
    evaluation: int,
    acceptance: int,
    validation: int = 500,
) -> Splits:
    """Return as many samples as `sample` shall draw, the same at every call; classes take turns.

    Calibration is the first of the training samples.
    """

    def split(seed: int, count: int) -> Split:
        draw = np.random.default_rng([2026, seed])
        classes = np.arange(count, dtype=np.int64) % len(labels)
        return Split(np.stack([sample(labels[one], draw) for one in classes]), classes)

    parts = [split(*each) for each in enumerate((training, evaluation, acceptance, validation))]
    return Splits(parts[0], parts[0].first(calibration), *parts[1:])
