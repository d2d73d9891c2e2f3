"""Train the gesture transformer and write everything that this folder commits.

    python models/gestures/train.py [--out DIR]

Also a recipe for `edgec search`: `build`, `example`, `train` and `evaluate`.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from dataset import splits
from model import AXES, STEPS, GestureNet
from training.classifier import Classifier
from training.recipe import Recipe, Release, main
from training.splits import Split

COUNTS = 8192  # of the sensor per unit of the net's input, as in steps.toml

MIN_EPOCHS = 3  # after fewer, nets of all sizes still guess


def build(width: float, depth: float) -> nn.Module:
    """Return an untrained net with `width` times the features and `depth` times the layers."""
    return GestureNet(width, depth)


def example() -> torch.Tensor:
    """Return an input that `build`'s nets take."""
    return torch.zeros(1, STEPS, AXES)


def _tensor(data: Split) -> torch.Tensor:
    """Return what steps.toml makes of the counts: float32 [N, 64, 6]."""
    return torch.from_numpy(data.inputs).float().div(COUNTS)


_CLASSIFIER = Classifier(splits, _tensor)
train, evaluate = _CLASSIFIER.train, _CLASSIFIER.evaluate

RECIPE = Recipe(
    folder=Path(__file__).resolve().parent,
    told=(
        "A small transformer encoder (`model.py`) that names the gesture in 1.3 seconds of a "
        "wrist's accelerations and turning rates, as raw counts of the sensor. `dataset.py` "
        "moves the wrist."
    ),
    releases=(
        Release("1.0.0", 10, "trained from scratch"),
        Release("1.1.0", 8, "1.0.0, trained on", pt2=True),
    ),
    build=build,
    example=example,
    train=train,
    score=_CLASSIFIER.score,
    splits=splits,
    input="motion",
    outputs=("logits",),
)

if __name__ == "__main__":
    main(RECIPE)
