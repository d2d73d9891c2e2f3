"""An image classifier of MobileNetV2's kind for 32x32 colour images."""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from training.loop import repeated, scaled

SIDE = 32
CLASSES = 10
# (expansion, channels, blocks, stride of the first block), as in MobileNetV2's table 2, for images
# a seventh as wide.
STAGES = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 48, 1, 2))
STEM = 16
LAST = 96


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


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project (Sandler et al. 2018, arXiv:1801.04381, section 3.3)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        expand = [ConvUnit(inputs, inner, 1)] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            ConvUnit(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``body(x)``, with `x` added where the shapes are equal."""
        made: torch.Tensor = self.body(x)
        return x + made if self.residual else made


class ImageNet(nn.Sequential):
    """[N, 3, 32, 32] float32 in -1..1 -> [N, 10] logits."""

    def __init__(self, width: float = 1.0, depth: float = 1.0) -> None:
        channels = scaled(STEM, width)
        blocks: list[nn.Module] = [ConvUnit(3, channels, 3, stride=2)]
        for expansion, wanted, count, stride in STAGES:
            outputs = scaled(wanted, width)
            for number in range(repeated(count, depth)):
                step = stride if number == 0 else 1
                blocks.append(InvertedResidual(channels, outputs, step, expansion))
                channels = outputs
        last = scaled(LAST, max(1.0, width))
        super().__init__(
            *blocks,
            ConvUnit(channels, last, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(last, CLASSES),
        )


def factory() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return an untrained net and an example input: `edgec compile model.py:factory`."""
    return ImageNet().eval(), (torch.zeros(1, 3, SIDE, SIDE),)
