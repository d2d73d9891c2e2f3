"""A keyword spotter: a fixed bank of mel-spaced filters on windowed frames, then a DS-CNN."""

import math
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from training.loop import repeated, scaled

RATE = 8000  # samples per second
WINDOW, HOP = 256, 128  # samples; steps.toml cuts the frames
FRAMES = 31
BANDS = 32
PHASES = 3  # rectified in three phases, a tone gives nearly the same level wherever it starts
CLASSES = 10
CHANNELS, BLOCKS = 32, 4


class FilterBank(nn.Module):
    """[N, frames, 256] -> [N, frames, 32] levels of mel-spaced bands.

    Features are a part of the model, so that every target computes them alike: linear layers and
    ReLU, which every integer accelerator has, instead of a spectrum's squares and logarithms.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("waves", _waves())
        self.register_buffer("merge", torch.eye(BANDS).repeat_interleave(PHASES, 1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the levels, 0 or more."""
        rectified = torch.relu(nn.functional.linear(frames, self.waves))
        return nn.functional.linear(rectified, self.merge)


def _waves() -> torch.Tensor:
    """Return one cosine per band and phase, [96, 256]; hann windows came with the frames."""
    mel = torch.linspace(_mel(120.0), _mel(3600.0), BANDS, dtype=torch.float64)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    time = torch.arange(WINDOW, dtype=torch.float64) / RATE
    phases = torch.arange(PHASES, dtype=torch.float64) * (2 * math.pi / PHASES)
    angles = 2 * math.pi * hertz[:, None, None] * time + phases[None, :, None]
    return (angles.cos() * (4 / WINDOW)).reshape(-1, WINDOW).float()


def _mel(hertz: float) -> float:
    """Return O'Shaughnessy's mel scale."""
    return 2595 * math.log10(1 + hertz / 700)


class Separable(nn.Sequential):
    """A depthwise 3x3 unit and a pointwise unit (Zhang et al. 2017, arXiv:1711.07128)."""

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )


class KeywordNet(nn.Module):
    """[N, 31, 256] float32 frames -> [N, 10] logits."""

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        channels = scaled(CHANNELS, width)
        self.bank = FilterBank()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, channels, (5, 4), stride=(2, 2), padding=(2, 1), bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            *(Separable(channels) for _ in range(repeated(BLOCKS, depth))),
        )
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)
        )

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the logits of `frames`."""
        logits: torch.Tensor = self.head(self.trunk(self.bank(frames).unsqueeze(1)))
        return logits


def factory() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return an untrained net and an example input: `edgec compile model.py:factory`."""
    return KeywordNet().eval(), (torch.zeros(1, FRAMES, WINDOW),)
