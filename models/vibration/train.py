"""Train the anomaly detector and write everything that this folder commits.

    python models/vibration/train.py [--out DIR]

Also a recipe for `edgec search`: `build`, `example`, `train` and `evaluate`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from dataset import splits
from model import BANDS, VibrationNet
from training.loop import fit
from training.recipe import Recipe, Release, main
from training.splits import Split

MEAN, STD = -30.0, 7.0  # dB, as in steps.toml
QUANTILE = 0.98  # of the healthy training samples' errors: where the limit lies

MIN_EPOCHS = 3  # after fewer, nets of all sizes still guess


def build(width: float, depth: float) -> nn.Module:
    """Return an untrained net with `width` times the units and `depth` times the layers."""
    return VibrationNet(width, depth)


def example() -> torch.Tensor:
    """Return an input that `build`'s nets take."""
    return torch.zeros(1, BANDS)


def train(module: nn.Module, seed: int, epochs: int) -> nn.Module:
    """Train `module` on healthy samples for `epochs`, set its limit, and return it."""
    assert isinstance(module, VibrationNet)
    inputs = _tensor(splits().training)
    fit(_Reconstruction(module), inputs, inputs, _mean_distance, epochs=epochs, seed=seed)
    with torch.no_grad():
        module.limit.copy_(torch.quantile(module.error(inputs), QUANTILE))
    return module


def evaluate(module: nn.Module) -> float:
    """Return the area under the ROC curve of the error on held-out samples."""
    return score(module, splits().validation)


@torch.no_grad()
def score(module: nn.Module, data: Split) -> float:
    """Return the area under the ROC curve on `data`."""
    return area(module(_tensor(data))[0][:, 1].numpy(), data.labels)


def area(errors: np.ndarray, labels: np.ndarray) -> float:
    """Return how often an anomalous sample has a greater error than a healthy one.

    That is the area under the ROC curve (Hanley and McNeil 1982), ties counting half.
    """
    apart = errors[labels == 1][:, None] - errors[labels == 0][None, :]
    return float((apart > 0).mean() + 0.5 * (apart == 0).mean())


class _Reconstruction(nn.Module):
    def __init__(self, net: VibrationNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net.reconstruct(x)


def _mean_distance(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return nn.functional.l1_loss(made, wanted)


def _tensor(data: Split) -> torch.Tensor:
    """Return what steps.toml makes of the levels."""
    return torch.from_numpy(data.inputs).sub(MEAN).div(STD)


RECIPE = Recipe(
    folder=Path(__file__).resolve().parent,
    told=(
        "An autoencoder (`model.py`) on the band levels of a pump's vibration, which "
        "`dataset.py` makes. It learns from healthy samples alone. Its outputs are `scores`, "
        "(limit, error), so that the greater names the class, and `reconstruction`, which "
        "shows the bands that are off. The limit is the 98 % quantile of the healthy training "
        "samples' errors."
    ),
    releases=(
        Release("1.0.0", 15, "trained from scratch"),
        Release("1.1.0", 15, "1.0.0, trained on"),
    ),
    build=build,
    example=example,
    train=train,
    score=score,
    splits=splits,
    input="levels",
    outputs=("scores", "reconstruction"),
    metric="ROC AUC",
)

if __name__ == "__main__":
    main(RECIPE)
