"""Train the keyword spotter and write everything that this folder commits.

    python models/keywords/train.py [--out DIR]

Also a recipe for `edgec search`: `build`, `example`, `train` and `evaluate`.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from dataset import splits
from model import FRAMES, HOP, WINDOW, KeywordNet
from training.classifier import Classifier
from training.recipe import Recipe, Release, main
from training.splits import Split

MIN_EPOCHS = 3  # after fewer, nets of all sizes still guess


def build(width: float, depth: float) -> nn.Module:
    """Return an untrained net with `width` times the channels and `depth` times the blocks."""
    return KeywordNet(width, depth)


def example() -> torch.Tensor:
    """Return an input that `build`'s nets take."""
    return torch.zeros(1, FRAMES, WINDOW)


def _frames(data: Split) -> torch.Tensor:
    """Return what steps.toml makes of the signals: float32 [N, 31, 256] under a Hann window."""
    signal = torch.from_numpy(data.inputs).float().div(32768)
    hann = torch.hann_window(WINDOW, dtype=torch.float64).float()
    return signal.unfold(1, WINDOW, HOP) * hann


_CLASSIFIER = Classifier(splits, _frames)
train, evaluate = _CLASSIFIER.train, _CLASSIFIER.evaluate

RECIPE = Recipe(
    folder=Path(__file__).resolve().parent,
    told=(
        "A DS-CNN (`model.py`) that spots eight words, and tells them from other words and "
        "from silence, in half a second of raw audio (8 kHz, 16 bits). `dataset.py` speaks "
        "the words: formants that glide, hisses and pauses, in many voices, speeds and "
        "noises. Frames are cut by the step `window`; the bank of mel-spaced filters is the "
        "model's first layer."
    ),
    releases=(
        Release("1.0.0", 10, "trained from scratch"),
        Release("1.1.0", 8, "1.0.0, trained on"),
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
