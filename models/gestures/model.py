"""A small transformer encoder that names the gesture in a window of motion samples."""

import math
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from training.loop import repeated, scaled

STEPS, AXES = 64, 6  # samples at 50 Hz; three accelerations and three turning rates
PATCH = 4  # samples per token
TOKENS = STEPS // PATCH
CLASSES = 8
WIDTH, HEADS, LAYERS = 32, 4, 2


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762), written out.

    Plain matrix products and a softmax: what integer accelerators have.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(width // heads)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, tokens, width] for the same."""
        q, k, v = (self._split(part(x)) for part in (self.query, self.key, self.value))
        weights = torch.softmax(q @ k.transpose(2, 3) * self.scale, -1)
        joined = (weights @ v).transpose(1, 2).reshape(x.shape)
        made: torch.Tensor = self.out(joined)
        return made

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, heads, tokens, width / heads] for [N, tokens, width]."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class Layer(nn.Module):
    """One encoder layer, normalised before each half (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, tokens, width] for the same."""
        x = x + self.attention(x)
        made: torch.Tensor = x + self.feed(x)
        return made


class GestureNet(nn.Module):
    """[N, 64, 6] float32 -> [N, 8] logits."""

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        size = scaled(WIDTH, width)
        self.embed = nn.Linear(PATCH * AXES, size)
        self.place = nn.Parameter(torch.randn(1, TOKENS, size) * 0.1)
        self.layers = nn.Sequential(*(Layer(size, HEADS) for _ in range(repeated(LAYERS, depth))))
        self.head = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of `x`."""
        tokens = self.embed(x.reshape(x.shape[0], TOKENS, PATCH * AXES)) + self.place
        logits: torch.Tensor = self.head(self.layers(tokens).mean(1))
        return logits


def factory() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return an untrained net and an example input: `edgec compile model.py:factory`."""
    return GestureNet().eval(), (torch.zeros(1, STEPS, AXES),)
