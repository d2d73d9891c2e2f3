"""The training loop that the recipes share: AdamW under a one-cycle schedule, seeded."""

from collections.abc import Callable

import torch
from torch import nn

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Augment = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
BATCH = 64


def fit(
    net: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    loss: Loss,
    *,
    epochs: int,
    seed: int,
    rate: float = 3e-3,
    augment: Augment | None = None,
) -> nn.Module:
    """Train `net` in place for `epochs` and return it in evaluation mode.

    Equal nets, data and seeds give equal weights. The learning rate follows one cycle (Smith 2018,
    arXiv:1803.09820), so a later call trains on from what an earlier one left.
    """
    if epochs == 0:
        return net.eval()
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    steps = epochs * -(-len(inputs) // BATCH)
    learned = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for index in torch.randperm(len(inputs), generator=draw).split(BATCH):
            batch = inputs[index] if augment is None else augment(inputs[index], draw)
            optimizer.zero_grad()
            loss(net(batch), targets[index]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def cross_entropy(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Return the loss of a classifier, with a little label smoothing."""
    return nn.functional.cross_entropy(logits, classes, label_smoothing=0.05)


@torch.no_grad()
def accuracy(net: nn.Module, inputs: torch.Tensor, classes: torch.Tensor) -> float:
    """Return the fraction of `inputs` that `net` gets right."""
    return float((net(inputs).argmax(1) == classes).float().mean())


def scaled(channels: int, width: float, step: int = 8) -> int:
    """Return `channels` times `width`, as a multiple of `step` that is not below it.

    Source: the rounding of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381).
    """
    return max(step, int(channels * width + step / 2) // step * step)


def repeated(blocks: int, depth: float) -> int:
    """Return `blocks` times `depth`, rounded, at least 1."""
    return max(1, round(blocks * depth))
