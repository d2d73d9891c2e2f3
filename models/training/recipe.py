"""One recipe's trainer: makes the data, trains the releases, writes the folder."""

import argparse
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from training.exporting import save_onnx, save_pt2
from training.splits import Split, Splits


@dataclass(frozen=True, slots=True)
class Release:
    """One release; it trains on from the release before it."""

    version: str
    epochs: int
    told: str  # what it is, for the README
    pt2: bool = False  # commit it as an exported program too


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a recipe's folder is made of."""

    folder: Path
    told: str  # what net on what data, for the README
    releases: tuple[Release, ...]
    build: Callable[[float, float], nn.Module]
    example: Callable[[], torch.Tensor]
    train: Callable[[nn.Module, int, int], nn.Module]
    score: Callable[[nn.Module, Split], float]  # of held-out samples, 0..1
    splits: Callable[[], Splits]
    input: str
    outputs: tuple[str, ...]
    metric: str = "accuracy"


def main(recipe: Recipe, seed: int = 1) -> None:
    """Train all releases of `recipe` and write them to --out."""
    parser = argparse.ArgumentParser(description=f"Train the recipe {recipe.folder.name}.")
    parser.add_argument("--out", type=Path, default=recipe.folder, help="folder to write to")
    parser.add_argument("--epochs", type=int, help="for every release, instead of its own")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    prepare()
    started = time.process_time()
    splits = recipe.splits()
    splits.save(out)
    net = seeded(recipe.build, 1.0, 1.0)
    rows = []
    for release in recipe.releases:
        epochs = release.epochs if arguments.epochs is None else arguments.epochs
        net = recipe.train(net, seed, epochs)
        scores = [recipe.score(net, part) for part in (splits.evaluation, splits.acceptance)]
        rows.append((release, *scores))
        print(
            f"{recipe.folder.name} {release.version}: evaluation {recipe.metric} {scores[0]:.4f}, "
            f"acceptance {scores[1]:.4f}, {time.process_time() - started:.0f} CPU seconds so far",
            flush=True,
        )
        path = out / f"{release.version}.onnx"
        save_onnx(net, recipe.example(), path, [recipe.input], recipe.outputs)
        if release.pt2:
            save_pt2(net, recipe.example(), out / f"{release.version}.pt2")
    parameters = sum(p.numel() for p in (*net.parameters(), *net.buffers()))
    (out / "README.md").write_text(_readme(recipe, rows, parameters, splits))


def prepare() -> None:
    """Make torch give the same bytes on any number of cores."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)


def seeded(
    build: Callable[[float, float], nn.Module], width: float, depth: float, seed: int = 0
) -> nn.Module:
    """Return the untrained net whose weights `seed` draws."""
    torch.manual_seed(seed)
    return build(width, depth)


def _readme(
    recipe: Recipe, rows: list[tuple[Release, float, float]], parameters: int, splits: Splits
) -> str:
    table = "\n".join(
        f"| {release.version} | {release.told} | {100 * evaluation:.2f} % | "
        f"{100 * acceptance:.2f} % |"
        for release, evaluation, acceptance in rows
    )
    name, raw = recipe.folder.name, splits.evaluation.inputs
    shape = ", ".join(map(str, ("N", *raw.shape[1:])))
    counts = ", ".join(
        f"{part} {len(getattr(splits, part).labels)}"
        for part in ("training", "calibration", "evaluation", "acceptance")
    )
    told = textwrap.fill(recipe.told, 100)
    return f"""# {name.capitalize()}

{told}

{parameters:,} parameters and constants; {recipe.metric} of the float model:

| release | what it is | evaluation | acceptance |
|---|---|---|---|
{table}

Samples: {counts}; none is in two of training, evaluation and acceptance.
Arrays are raw: `inputs` {raw.dtype} [{shape}], `labels` int64 [N]. `steps.toml` says what becomes
of a raw sample before the net sees it.

Made by `python models/{name}/train.py` (needs the extras `compiler` and `models`), which wrote this
file and everything else here but the code, `steps.toml` and `labels.txt`. It is deterministic: the
same machine and package versions write the same bytes. It is a recipe for `edgec search` too.
"""
