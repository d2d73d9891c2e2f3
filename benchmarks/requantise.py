"""What delta-aware requantisation saves, on update pairs that this script trains itself.

    python benchmarks/requantise.py [--nets cnn,separable,mobile,dense] [--budgets 1,2]

Four nets are trained on scikit-learn's digits; each then gets updates on new data (darker and
paler digits among the others): `light` (an epoch of SGD, all layers), `medium` (three of AdamW, all
layers), `head` (the last layer only), `addcls` (two more classes, two epochs of AdamW, all layers);
and `unrel` is trained from another seed: nothing to be near to. Everything is compiled as
`edgec compile` compiles, with and without --delta-base. Errors are against the float net, on images
that neither training nor calibration nor the search for lambda has seen. Deterministic; minutes on
two cores.
"""

import argparse
import copy
import itertools
import json
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _requantise_nets import NETS, SIDE, Make
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from edgec_bundle.archive import open_bundle
from edgec_bundle.delta import make_patch_as
from edgec_compiler.compiling import compile_model
from edgec_compiler.options import CompileOptions
from edgec_compiler.requantise.outputs import answers

CLASSES, MORE = 10, 2
UPDATES = ("light", "medium", "head", "addcls", "unrel")
TARGETS = {"rpi4": "litert", "generic-arm64": "onnxruntime"}


@dataclass(frozen=True, slots=True)
class Split:
    """Images [N, 1, 32, 32] in -1..1 and their classes."""

    images: torch.Tensor
    labels: torch.Tensor

    def save(self, path: Path) -> str:
        np.savez(path, inputs=self.images.numpy(), labels=self.labels.numpy())
        return str(path)


def drifted(images: torch.Tensor) -> torch.Tensor:
    """Return paler images on a brighter ground."""
    return (images * 0.8 + 0.15).clamp(-1, 1)


def splits() -> dict[str, Split]:
    """Return disjoint parts of the digits; all but the first training contain drifted images."""
    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    size = (SIDE, SIDE)
    large = [np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BILINEAR)) for i in small]
    order = np.random.default_rng(0).permutation(len(large))
    images = torch.tensor(np.stack(large)[order]).float().sub(127.5).div(127.5)[:, None]
    labels = torch.tensor(digits.target[order]).long()

    def mixed(start: int, end: int) -> Split:
        both = torch.cat([images[start:end], drifted(images[start:end])])
        return Split(both, torch.cat([labels[start:end]] * 2))

    new = torch.cat([images[:1000], drifted(images[900:1200])])
    names = torch.cat([labels[:1000], labels[900:1200]])
    some = torch.tensor(np.random.default_rng(1).permutation(len(new))[:128])
    return {
        "training": Split(images[:1000], labels[:1000]),
        "new": Split(new, names),
        "old calibration": Split(images[:100], labels[:100]),
        "calibration": Split(new[some], names[some]),
        "evaluation": mixed(1200, 1500),
        "unseen": mixed(1500, 1797),
    }


def with_more_classes(split: Split) -> Split:
    """Return `split` and the negatives of its zeros and ones, which are classes 10 and 11."""
    some = split.labels < MORE
    return Split(
        torch.cat([split.images, -split.images[some]]),
        torch.cat([split.labels, split.labels[some] + CLASSES]),
    )


def widened(net: nn.Module) -> nn.Module:
    """Return a copy of `net` whose last layer has new rows for more classes."""
    torch.manual_seed(2)
    net = copy.deepcopy(net)
    (name, last), *_ = reversed(list(net.named_children()))
    if not isinstance(last, nn.Linear):
        raise TypeError("expected a linear layer last")
    wide = nn.Linear(last.in_features, CLASSES + MORE)
    with torch.no_grad():
        wide.weight[:CLASSES], wide.bias[:CLASSES] = last.weight, last.bias
    setattr(net, name, wide)
    return net


def augmented(batch: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Return `batch`, each image turned, scaled and moved a little."""
    count = len(batch)
    angle = (torch.rand(count, generator=draw) - 0.5) * 0.4
    scale = 1 + (torch.rand(count, generator=draw) - 0.5) * 0.2
    shift = (torch.rand(count, 2, generator=draw) - 0.5) * 0.2
    first = torch.stack([angle.cos() * scale, -angle.sin() * scale, shift[:, 0]], 1)
    second = torch.stack([angle.sin() * scale, angle.cos() * scale, shift[:, 1]], 1)
    grid = functional.affine_grid(
        torch.stack([first, second], 1), list(batch.shape), align_corners=False
    )
    return functional.grid_sample(batch + 1, grid, align_corners=False) - 1


def trained(
    net: nn.Module,
    data: Split,
    epochs: int,
    optimizer: Callable[[Any], torch.optim.Optimizer],
    *,
    head_only: bool = False,
    peak: float | None = None,
) -> nn.Module:
    """Return a copy of `net`, trained."""
    torch.manual_seed(1)
    net = copy.deepcopy(net).train(not head_only)
    part = list(net.children())[-1] if head_only else net
    steps = optimizer(part.parameters())
    total = epochs * -(-len(data.images) // 64)
    plan = peak and torch.optim.lr_scheduler.OneCycleLR(steps, peak, total_steps=total)
    draw = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for index in torch.randperm(len(data.images), generator=draw).split(64):
            made = net(augmented(data.images[index], draw))
            loss = functional.cross_entropy(made, data.labels[index])
            steps.zero_grad()
            loss.backward()
            steps.step()
            if plan:
                plan.step()
    return net.eval()


def trained_anew(make: Make, data: Split, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    steps = torch.optim.AdamW
    return trained(make(), data, 12, lambda p: steps(p, 3e-3, weight_decay=1e-2), peak=3e-3)


def family(make: Make, data: dict[str, Split]) -> dict[str, nn.Module]:
    """Return a trained net and its updates."""
    optim = torch.optim
    base = trained_anew(make, data["training"], 0)
    new = data["new"]
    more = with_more_classes(new)
    return {
        "base": base,
        "light": trained(base, new, 1, lambda p: optim.SGD(p, 1e-3, momentum=0.9)),
        "medium": trained(base, new, 3, lambda p: optim.AdamW(p, 1e-4)),
        "head": trained(base, new, 3, lambda p: optim.AdamW(p, 1e-3), head_only=True),
        "addcls": trained(widened(base), more, 2, lambda p: optim.AdamW(p, 1e-4)),
        "unrel": trained_anew(make, new, 3),
    }


@dataclass(frozen=True, slots=True)
class Row:
    """One update for one target; sizes in bytes, errors in the outputs' standard deviations."""

    net: str
    update: str
    format: str
    budget: float
    model: int
    changed: tuple[float, float]  # share of weights: ordinary, requantised
    bsdiff4: tuple[int, int]
    tensor: tuple[int, int]
    error: tuple[float, float]  # on unseen images
    accuracy: tuple[float, float, float]  # float, ordinary, requantised; on unseen images
    price: float
    seconds: tuple[float, float]  # of the compile

    @property
    def ratio(self) -> float:
        """The best patch to the requantised model, in terms of bsdiff4's to the ordinary one."""
        return min(self.bsdiff4[1], self.tensor[1]) / self.bsdiff4[0]


def export(net: nn.Module, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            (torch.zeros(1, 1, SIDE, SIDE),),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["logits"],
        )
    if program is None:
        raise RuntimeError("nothing was exported")
    program.save(str(path))
    return str(path)


@dataclass(frozen=True, slots=True)
class Compiled:
    """One compile for both targets."""

    folder: Path
    facts: dict[str, Any]
    seconds: float

    def model(self, target: str) -> bytes:
        return open_bundle(self.folder / target).read("model")


def compiled(
    model: str, out: Path, data: dict[str, str], base: Path | None, budget: float
) -> Compiled:
    options = CompileOptions(
        model,
        tuple(TARGETS),
        str(out),
        precision="int8",
        calibration=data["calibration"],
        evaluation=data["evaluation"],
        max_accuracy_drop=0.05,
        delta_base=None if base is None else str(base),
        delta_budget=budget,
    )
    started = time.monotonic()
    facts = {}
    for result in compile_model(options, lambda *_: None):
        if result.facts is None:
            raise RuntimeError(result.error)
        facts[result.target] = dict(result.facts)
    return Compiled(out, facts, time.monotonic() - started)


def judged(net: nn.Module, payload: bytes, runtime: str, data: Split) -> tuple[float, float, float]:
    """Return (error against the float net, accuracy, the float net's accuracy)."""
    with torch.no_grad():
        exact = net(data.images).numpy().astype(np.float64)
    images = [image[None].numpy() for image in data.images]
    if runtime == "litert":
        images = [np.ascontiguousarray(image.transpose(0, 2, 3, 1)) for image in images]
    made = answers(payload, runtime, [{"image": image} for image in images])
    truth = data.labels.numpy()
    error = float(np.sqrt(np.square(made - exact).mean()) / exact.std())
    right = [float((one.argmax(1) == truth).mean()) for one in (made, exact)]
    return error, right[0], right[1]


def rows_of(name: str, data: dict[str, Split], budgets: list[float], folder: Path) -> list[Row]:
    """Return the rows of one net, printed as they come."""
    nets = family(NETS[name], data)
    saved = {key: split.save(folder / f"{key}.npz") for key, split in data.items()}
    more = {key: with_more_classes(split) for key, split in data.items()}
    more_saved = {key: split.save(folder / f"more {key}.npz") for key, split in more.items()}
    old_data = saved | {"calibration": saved["old calibration"]}
    models = {key: export(net, folder / f"{name}-{key}.onnx") for key, net in nets.items()}
    base = compiled(models["base"], folder / f"{name}-base", old_data, None, 1.0)
    found = []
    for update in UPDATES:
        out = folder / f"{name}-{update}"
        files_of, split = (more_saved, more) if update == "addcls" else (saved, data)
        plain = compiled(models[update], out, files_of, None, 1.0)
        near_at = {
            budget: compiled(
                models[update], Path(f"{out}-{budget:g}"), files_of, base.folder, budget
            )
            for budget in budgets
        }
        for (budget, near), (target, runtime) in itertools.product(
            near_at.items(), TARGETS.items()
        ):
            old, files = base.model(target), (plain.model(target), near.model(target))
            delta = near.facts[target]["delta"]
            errors = [judged(nets[update], one, runtime, split["unseen"]) for one in files]
            patches = {
                kind: tuple(len(make_patch_as(kind, old, one).data) for one in files)
                for kind in ("bsdiff4", "tensor")
            }
            row = Row(
                name,
                update,
                "TFLite" if runtime == "litert" else "ONNX",
                budget,
                len(files[1]),
                (delta["changed"]["ordinary"], delta["changed"]["model"]),
                (patches["bsdiff4"][0], patches["bsdiff4"][1]),
                (patches["tensor"][0], patches["tensor"][1]),
                (errors[0][0], errors[1][0]),
                (errors[0][2], errors[0][1], errors[1][1]),
                delta["lambda"],
                (plain.seconds, near.seconds),
            )
            print(line(row), flush=True)
            found.append(row)
    return found


HEADER = """\
| net | update | format | budget | model | changed | bsdiff4 | tensor | best / bsdiff4 | error on unseen data | accuracy float / int8 / near | lambda |
|---|---|---|---|---|---|---|---|---|---|---|---|"""  # noqa: E501


def line(row: Row) -> str:
    return (
        f"| {row.net} | {row.update} | {row.format} | {row.budget:g} | {row.model:,} "
        f"| {row.changed[0]:.1%} -> {row.changed[1]:.1%} "
        f"| {row.bsdiff4[0]:,} -> {row.bsdiff4[1]:,} | {row.tensor[0]:,} -> {row.tensor[1]:,} "
        f"| **{row.ratio:.3f}** "
        f"| {row.error[0]:.4f} -> {row.error[1]:.4f} (x{row.error[1] / row.error[0]:.2f}) "
        f"| {row.accuracy[0]:.3f} / {row.accuracy[1]:.3f} / {row.accuracy[2]:.3f} "
        f"| {row.price:.3g} |"
    )


def summary(rows: list[Row]) -> str:
    """Return geometric means by kind of update."""
    told = []
    kinds = {"light and medium": ("light", "medium"), "light": ("light",), "medium": ("medium",)}
    for name, updates in {**kinds, **{one: (one,) for one in UPDATES[2:]}}.items():
        some = [row for row in rows if row.update in updates]
        if not some:
            continue
        ratio = math.exp(sum(math.log(row.ratio) for row in some) / len(some))
        error = math.exp(sum(math.log(row.error[1] / row.error[0]) for row in some) / len(some))
        told.append(
            f"{name} ({len(some)} pairs): best patch / bsdiff4 on ordinary int8 {ratio:.3f} "
            f"(worst {max(row.ratio for row in some):.3f}), error x{error:.3f} "
            f"(worst x{max(row.error[1] / row.error[0] for row in some):.2f})"
        )
    extra = sorted(row.seconds[1] - row.seconds[0] for row in rows)
    told.append(
        f"extra compile time for both targets: {extra[len(extra) // 2]:.1f} s in the middle, "
        f"{extra[-1]:.1f} s at most"
    )
    return "\n".join(f"- {one}" for one in told)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nets", default=",".join(NETS), help="some of " + ", ".join(NETS))
    parser.add_argument("--budgets", default="1,2", help="--delta-budget of the compiles")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    data = splits()
    budgets = [float(one) for one in arguments.budgets.split(",")]
    print(HEADER, flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.nets.split(","):
            rows += rows_of(name, data, budgets, Path(folder))
    for budget in budgets:
        print(f"\nBudget {budget:g}\n\n{summary([one for one in rows if one.budget == budget])}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
