"""Train the image classifier and write everything that this folder commits.

    python models/images/train.py [--out DIR]

Also a recipe for `edgec search`: `build`, `example`, `train` and `evaluate`.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from dataset import splits
from model import SIDE, ImageNet
from training.classifier import Classifier
from training.recipe import Recipe, Release, main
from training.splits import Split

MIN_EPOCHS = 3  # after fewer, nets of all sizes still guess


def build(width: float, depth: float) -> nn.Module:
    """Return an untrained net with `width` times the channels and `depth` times the blocks."""
    return ImageNet(width, depth)


def example() -> torch.Tensor:
    """Return an input that `build`'s nets take."""
    return torch.zeros(1, 3, SIDE, SIDE)


def _tensor(data: Split) -> torch.Tensor:
    """Return what steps.toml makes of the images: float32 [N, 3, 32, 32] in -1..1."""
    return torch.from_numpy(data.inputs).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)


_CLASSIFIER = Classifier(splits, _tensor)
train, evaluate = _CLASSIFIER.train, _CLASSIFIER.evaluate

RECIPE = Recipe(
    folder=Path(__file__).resolve().parent,
    told=(
        "A MobileNetV2-like net (inverted residuals, depthwise convolutions; `model.py`) that "
        "tells ten plane figures apart on photos that `dataset.py` draws: any two colours, "
        "uneven light, noise."
    ),
    releases=(
        Release("1.0.0", 8, "trained from scratch"),
        Release("1.1.0", 4, "1.0.0, trained on"),
    ),
    build=build,
    example=example,
    train=train,
    score=_CLASSIFIER.score,
    splits=splits,
    input="image",
    outputs=("logits",),
)

if __name__ == "__main__":
    main(RECIPE)
