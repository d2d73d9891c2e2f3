"""How a net that names classes is trained on a recipe's data, and judged."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from training.loop import accuracy, cross_entropy, fit
from training.splits import Split, Splits


@dataclass(frozen=True)
class Classifier:
    """Three functions of a recipe: `train`, `score` and `evaluate`."""

    splits: Callable[[], Splits]
    tensor: Callable[[Split], torch.Tensor]  # what steps.toml makes of the raw samples

    def train(self, module: nn.Module, seed: int, epochs: int) -> nn.Module:
        """Train `module` on for `epochs` and return it."""
        inputs, labels = self._training
        return fit(module, inputs, labels, cross_entropy, epochs=epochs, seed=seed)

    def evaluate(self, module: nn.Module) -> float:
        """Return the accuracy on samples that are for choosing a net."""
        return self.score(module, self.splits().validation)

    def score(self, module: nn.Module, data: Split) -> float:
        """Return the accuracy on `data`."""
        return accuracy(module, self.tensor(data), torch.from_numpy(data.labels))

    @cached_property
    def _training(self) -> tuple[torch.Tensor, torch.Tensor]:
        data = self.splits().training
        return self.tensor(data), torch.from_numpy(data.labels)
