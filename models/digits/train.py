"""Train the digits releases and write everything that this folder commits.

    python models/digits/train.py [--out DIR]

Deterministic: the same machine and torch version write the same bytes. The data is scikit-learn's
bundled copy of the UCI handwritten digits (1797 images, 8x8), upsampled to 32x32.
"""

import argparse
import copy
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from model import CLASSES, SIDE, DigitNet
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for `training`, beside this folder

from training.exporting import save_onnx, save_pt2
from training.recipe import prepare

HERE = Path(__file__).resolve().parent
EXAMPLE = torch.zeros(1, 1, SIDE, SIDE)
ACCEPTANCE_PER_CLASS = 12
EVALUATION_PER_CLASS = 45
CALIBRATION_SAMPLES = 200
Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Split:
    """Raw images uint8 [N, 32, 32, 1] and labels int64 [N]."""

    inputs: Images
    labels: Labels

    def tensor(self) -> torch.Tensor:
        """Return what steps.toml makes of the images: float32 [N, 1, 32, 32] in -1..1."""
        return torch.from_numpy(self.inputs).permute(0, 3, 1, 2).float().sub(127.5).div(127.5)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one release is trained; `relabel` maps a true class to the class that is taught."""

    version: str
    epochs: int
    rate: float
    augment: bool
    parts: tuple[str, ...]  # the submodules that are trained; the others stay as they are
    relabel: tuple[int, ...] = tuple(range(CLASSES))


FIRST_LAYERS = ("trunk.0", "trunk.1", "trunk.2")

# 1.0.0 is stopped early and sees no augmented data: an honest first release, with something left to
# gain. The later ones train a part of the net only, so that an update is a small difference.
RECIPES = (
    Recipe("1.0.0", epochs=7, rate=3e-3, augment=False, parts=("trunk", "head")),
    Recipe("1.1.0", epochs=30, rate=3e-3, augment=True, parts=(*FIRST_LAYERS, "head")),
    Recipe(
        "1.2.0-bad",
        epochs=12,
        rate=3e-3,
        augment=False,
        parts=("head",),
        relabel=(3, 7, 4, 8, 9, 0, 2, 1, 6, 5),
    ),
)


def load_images() -> Split:
    """Return all 1797 digits, upsampled with Pillow's bilinear filter."""
    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    size = (SIDE, SIDE)
    large = [np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BILINEAR)) for i in small]
    return Split(np.stack(large)[..., None], digits.target.astype(np.int64))


def split_by_class(data: Split, seed: int) -> tuple[Split, Split, Split]:
    """Return disjoint (training, evaluation, acceptance); the last two have equal classes."""
    order = np.random.default_rng(seed).permutation(len(data.labels))
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in range(CLASSES):
        mine = order[data.labels[order] == label].tolist()
        cut = ACCEPTANCE_PER_CLASS + EVALUATION_PER_CLASS
        parts[0].extend(mine[cut:])
        parts[1].extend(mine[ACCEPTANCE_PER_CLASS:cut])
        parts[2].extend(mine[:ACCEPTANCE_PER_CLASS])
    shuffled = [np.random.default_rng(seed + 1).permutation(part) for part in parts]
    training, evaluation, acceptance = (Split(data.inputs[s], data.labels[s]) for s in shuffled)
    return training, evaluation, acceptance


def augmented(batch: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Return `batch` [N, 1, 32, 32], each image turned, scaled and moved a little."""
    count = len(batch)
    angle = (torch.rand(count, generator=draw) - 0.5) * 0.5
    scale = 1 + (torch.rand(count, generator=draw) - 0.5) * 0.25
    shift = (torch.rand(count, 2, generator=draw) - 0.5) * 0.2
    rows = torch.stack(
        [
            torch.stack([angle.cos() * scale, -angle.sin() * scale, shift[:, 0]], 1),
            torch.stack([angle.sin() * scale, angle.cos() * scale, shift[:, 1]], 1),
        ],
        1,
    )
    grid = functional.affine_grid(rows, list(batch.shape), align_corners=False)
    return functional.grid_sample(batch + 1, grid, align_corners=False) - 1  # outside is ink-free


def train(net: DigitNet, data: Split, recipe: Recipe, seed: int) -> DigitNet:
    """Return a copy of `net` trained on `data` as `recipe` says."""
    torch.manual_seed(seed)
    net = copy.deepcopy(net)
    part = nn.ModuleList([net.get_submodule(name) for name in recipe.parts])
    inputs, taught = data.tensor(), torch.tensor(recipe.relabel)[torch.from_numpy(data.labels)]
    steps = recipe.epochs * -(-len(inputs) // 64)
    optimizer = torch.optim.AdamW(part.parameters(), lr=recipe.rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(recipe.epochs):
        net.eval()
        part.train()
        for index in torch.randperm(len(inputs), generator=draw).split(64):
            batch = augmented(inputs[index], draw) if recipe.augment else inputs[index]
            loss = functional.cross_entropy(net(batch), taught[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, data: Split) -> float:
    """Return the fraction of `data` that `net` gets right."""
    return float((net(data.tensor()).argmax(1).numpy() == data.labels).mean())


def save_splits(out: Path, training: Split, evaluation: Split, acceptance: Split) -> None:
    """Write the three `.npz` files; calibration is a part of the training images."""
    calibration = Split(
        training.inputs[:CALIBRATION_SAMPLES], training.labels[:CALIBRATION_SAMPLES]
    )
    named = {"calibration": calibration, "evaluation": evaluation, "acceptance": acceptance}
    for name, split in named.items():
        np.savez_compressed(out / f"{name}.npz", inputs=split.inputs, labels=split.labels)


def readme(rows: list[tuple[Recipe, float, float]], parameters: int, sizes: str) -> str:
    """Return README.md with the measured accuracies."""
    told = {
        "1.0.0": "trained from scratch, stopped early, no augmentation",
        "1.1.0": "1.0.0, first layers and head trained on with turned, scaled and moved images",
        "1.2.0-bad": "1.1.0 with its head trained on permuted labels: a real model that is wrong",
    }
    table = "\n".join(
        f"| {r.version} | {told[r.version]} | {100 * e:.2f} % | {100 * a:.2f} % |"
        for r, e, a in rows
    )
    return f"""# Digits

A {parameters:,}-parameter convolutional net with depthwise blocks and two residuals (`model.py`),
trained on scikit-learn's bundled handwritten digits, upsampled to 32x32 (`train.py`).

| release | what it is | evaluation | acceptance |
|---|---|---|---|
{table}

{sizes} No image is in two of training, evaluation and acceptance; `calibration.npz` is a part of
the training images. Arrays are raw: `inputs` uint8 [N, 32, 32, 1], `labels` int64 [N].
`steps.toml` says what becomes of a raw image before the net sees it.

Made by `python models/digits/train.py` (needs the extras `compiler` and `models`), which wrote this
file and everything else here but the code, `steps.toml` and `labels.txt`. It is deterministic: the
same machine and package versions write the same bytes.
"""


def main() -> None:
    """Train all releases and write them to --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write to")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    prepare()
    torch.manual_seed(0)
    training, evaluation, acceptance = split_by_class(load_images(), seed=0)
    save_splits(out, training, evaluation, acceptance)
    net, rows = DigitNet(), []
    for recipe in RECIPES:
        net = train(net, training, recipe, seed=1)
        rows.append((recipe, accuracy(net, evaluation), accuracy(net, acceptance)))
        print(f"{recipe.version}: evaluation {rows[-1][1]:.4f}, acceptance {rows[-1][2]:.4f}")
        save_onnx(net, EXAMPLE, out / f"{recipe.version}.onnx", ["image"], ["logits"])
        save_pt2(net, EXAMPLE, out / f"{recipe.version}.pt2")
    counts = [len(s.labels) for s in (training, evaluation, acceptance)]
    sizes = f"Training {counts[0]}, evaluation {counts[1]}, acceptance {counts[2]} images."
    parameters = sum(p.numel() for p in net.parameters())
    (out / "README.md").write_text(readme(rows, parameters, sizes))


if __name__ == "__main__":
    main()
