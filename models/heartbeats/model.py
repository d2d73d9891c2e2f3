"""A GRU that names the rhythm in four seconds of an electrocardiogram."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from training.loop import repeated, scaled

RATE = 64  # samples per second
FRAMES, FRAME = 32, 8  # steps.toml cuts the signal into frames
CLASSES = 6
UNITS, LAYERS = 32, 1


class HeartNet(nn.Module):
    """[N, 32, 8] float32 -> [N, 6] logits; the GRU reads one frame a step."""

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        units = scaled(UNITS, width)
        layers = repeated(LAYERS, depth)
        self.embed = nn.Sequential(nn.Linear(FRAME, units), nn.ReLU())
        self.memory = nn.GRU(units, units, layers, batch_first=True)
        self.head = nn.Linear(units, CLASSES)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the logits of `frames`, from what the GRU holds after the last one."""
        states, _ = self.memory(self.embed(frames))
        logits: torch.Tensor = self.head(states[:, -1])
        return logits


def factory() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return an untrained net and an example input: `edgec compile model.py:factory`."""
    return HeartNet().eval(), (torch.zeros(1, FRAMES, FRAME),)
