"""A small convolutional net for 32x32 grey digits: depthwise blocks and two residuals."""

import torch
from torch import nn

SIDE = 32
CLASSES = 10


class ConvUnit(nn.Sequential):
    """Convolution, batch norm and ReLU6: H and W are divided by the stride."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


class Separable(nn.Sequential):
    """A depthwise 3x3 unit and a pointwise unit (Howard et al. 2017, arXiv:1704.04861)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            ConvUnit(inputs, inputs, 3, stride, groups=inputs), ConvUnit(inputs, outputs, 1)
        )


class InvertedResidual(nn.Module):
    """Widen, filter depthwise, narrow, add the input (Sandler et al. 2018, arXiv:1801.04381)."""

    def __init__(self, channels: int, widened: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvUnit(channels, widened, 1),
            ConvUnit(widened, widened, 3, groups=widened),
            nn.Conv2d(widened, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x + body(x)``, same shape as `x`."""
        return x + self.body(x)


class DigitNet(nn.Module):
    """[N, 1, 32, 32] float32 in -1..1 -> [N, 10] logits; about 40 000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            ConvUnit(1, 16, 3, stride=2),
            Separable(16, 32, stride=2),
            InvertedResidual(32, 96),
            Separable(32, 64, stride=2),
            InvertedResidual(64, 160),
        )
        self.head = nn.Sequential(
            ConvUnit(64, 96, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, CLASSES)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of `x`."""
        logits: torch.Tensor = self.head(self.trunk(x))
        return logits


def factory() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return an untrained net and an example input: `edgec compile model.py:factory`."""
    return DigitNet().eval(), (torch.zeros(1, 1, SIDE, SIDE),)
