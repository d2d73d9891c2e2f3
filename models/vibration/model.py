"""An autoencoder that knows a healthy machine's vibration, and says how far a sample is from it."""

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from training.loop import repeated, scaled

BANDS = 64
INNER = 64
CODE = 8
LAYERS = 2


class VibrationNet(nn.Module):
    """[N, 64] standardised band levels -> (scores [N, 2], reconstruction [N, 64]).

    The scores are (limit, error): the error is the mean distance between sample and reconstruction,
    and the greater of the two names the class, 0 healthy, 1 anomalous. So a threshold needs no step
    of its own, and accuracy is defined for an autoencoder too.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        inner, code = scaled(INNER, width), scaled(CODE, width, step=4)
        layers = repeated(LAYERS, depth)
        self.encoder = nn.Sequential(*_layers([BANDS, *[inner] * layers, code]))
        self.decoder = nn.Sequential(*_layers([code, *[inner] * layers]), nn.Linear(inner, BANDS))
        self.register_buffer("limit", torch.tensor(1.0))

    def reconstruct(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the net makes of `x`, the same shape."""
        made: torch.Tensor = self.decoder(self.encoder(x))
        return made

    def error(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean distance between `x` and its reconstruction, [N, 1]."""
        return _distance(x, self.reconstruct(x))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores and the reconstruction."""
        made = self.reconstruct(x)
        pick = x.new_tensor([[0.0], [1.0]])
        bias = torch.stack([self.limit, torch.zeros_like(self.limit)])
        return nn.functional.linear(_distance(x, made), pick, bias), made


def _distance(x: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """Return the mean of |x - made| as [N, 1], by ReLU, which integer accelerators have."""
    apart = torch.relu(x - made) + torch.relu(made - x)
    return apart.mean(1, keepdim=True)


def _layers(sizes: list[int]) -> list[nn.Module]:
    made: list[nn.Module] = []
    for before, after in pairwise(sizes):
        made += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
    return made


def factory() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return an untrained net and an example input: `edgec compile model.py:factory`."""
    return VibrationNet().eval(), (torch.zeros(1, BANDS),)
