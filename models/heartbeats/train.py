"""Train the rhythm classifier and write everything that this folder commits.

    python models/heartbeats/train.py [--out DIR]

Also a recipe for `edgec search`: `build`, `example`, `train` and `evaluate`.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from dataset import splits
from model import FRAME, FRAMES, HeartNet
from training.classifier import Classifier
from training.recipe import Recipe, Release, main
from training.splits import Split

MICROVOLTS = 500  # per unit of the net's input, as in steps.toml

MIN_EPOCHS = 3  # after fewer, nets of all sizes still guess


def build(width: float, depth: float) -> nn.Module:
    """Return an untrained net with `width` times the units and `depth` times the layers."""
    return HeartNet(width, depth)


def example() -> torch.Tensor:
    """Return an input that `build`'s nets take."""
    return torch.zeros(1, FRAMES, FRAME)


def _tensor(data: Split) -> torch.Tensor:
    """Return what steps.toml makes of the signals: float32 [N, 32, 8]."""
    return torch.from_numpy(data.inputs).float().div(MICROVOLTS).reshape(-1, FRAMES, FRAME)


_CLASSIFIER = Classifier(splits, _tensor)
train, evaluate = _CLASSIFIER.train, _CLASSIFIER.evaluate

RECIPE = Recipe(
    folder=Path(__file__).resolve().parent,
    told=(
        "A GRU (`model.py`) that names the heart's rhythm in four seconds of an "
        "electrocardiogram, as raw microvolts. `dataset.py` makes the recordings. The step "
        "`window` cuts them into frames."
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
    input="frames",
    outputs=("logits",),
)

if __name__ == "__main__":
    main(RECIPE)
