"""The four nets of `requantise.py`, for grey images [N, 1, 32, 32] of ten classes."""

import itertools
from collections.abc import Callable

import torch
from torch import nn

SIDE = 32
Make = Callable[[], nn.Module]


def unit(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    """Return convolution, batch norm, ReLU6."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())


class Inverted(nn.Module):
    """Widen, filter depthwise, narrow; add the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = inputs * factor
        self.adds = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            unit(inputs, wide, 1),
            unit(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.body(x)
        return x + made if self.adds else made


def headed(*layers: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def cnn() -> nn.Module:
    widths = ((1, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1))
    return headed(*(unit(i, o, 3, s) for i, o, s in widths), width=128)


def separable() -> nn.Module:
    widths = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))
    pairs = [layer for i, o, s in widths for layer in (unit(i, i, 3, s, i), unit(i, o, 1))]
    return headed(unit(1, 32, 3, 2), *pairs, width=256)


def mobile() -> nn.Module:
    blocks = (
        (24, 32, 2, 3),
        (32, 32, 1, 4),
        (32, 64, 2, 4),
        (64, 64, 1, 4),
        (64, 64, 1, 4),
        (64, 96, 1, 4),
    )
    inverted = [Inverted(*block) for block in blocks]
    return headed(unit(1, 24, 3, 2), *inverted, unit(96, 256, 1), width=256)


def dense() -> nn.Module:
    widths = (SIDE * SIDE, 256, 256, 128)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 10))


NETS: dict[str, Make] = {"cnn": cnn, "separable": separable, "mobile": mobile, "dense": dense}
