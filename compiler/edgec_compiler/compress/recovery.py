"""The built-in training: a student learns from the source model on the calibration data."""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from edgec_compiler.compress.lessons import Loss, TrainingData, answers, tensors
from edgec_compiler.errors import NotAchievedError

BATCH = 32
_MOST_MACS = 3e12  # of training that nobody asked for by number: minutes on one core
_PATIENCE = 0.25  # of the epochs without any progress end the training
_WARM = 0.05  # of the steps, in which the rate grows


@dataclass(frozen=True, slots=True)
class Course:
    """How long to train, and how fast."""

    epochs: int
    rate: float
    seed: int


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of it. Losses are those on the held-out samples."""

    samples: int
    held_out: int
    labelled: bool
    epochs: int
    steps: int
    loss_before: float
    loss_after: float
    stopped_early: bool

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def epochs_for(samples: int, steps: int, macs: int, asked: int | None) -> int:
    """Return how many epochs to train.

    Args:
        samples: to train on.
        steps: how many are enough for what is to be learned.
        macs: multiply-accumulates of one inference; large models get fewer steps.
        asked: what the user wants, if anything.
    """
    if asked is not None:
        return asked
    per_epoch = max(1, math.ceil(samples / BATCH))
    affordable = _MOST_MACS / (4 * BATCH * max(1, macs))  # forward, twice that back, the teacher
    return max(1, round(min(steps, affordable) / per_epoch))


def distil(
    student: nn.Module,
    teacher: nn.Module,
    data: TrainingData,
    kinds: tuple[str, ...],
    course: Course,
    each_epoch: Callable[[int], None],
) -> Learned:
    """Train `student` in place to answer like `teacher`; it ends with its best weights.

    Adam with a cosine schedule; deterministic for equal arguments and one thread. Best is by the
    loss on held-out samples, and training stops when that has not fallen for a quarter of the
    epochs.

    Raises:
        NotAchievedError: the loss is no longer a number.
    """
    taught, held_out = data.parted(course.seed)
    loss = Loss.of(kinds, teacher, taught)
    wanted = answers(teacher, held_out.inputs)

    def judged() -> float:
        student.eval()
        found = float(loss(answers(student, held_out.inputs), wanted, held_out.labels))
        student.train()
        return found

    per_epoch = max(1, math.ceil(len(taught) / BATCH))
    optimiser = torch.optim.Adam([p for p in student.parameters() if p.requires_grad], course.rate)
    schedule = _schedule(optimiser, per_epoch * course.epochs)
    draw = torch.Generator().manual_seed(course.seed)
    before = best = judged()
    kept, since, epoch = copy.deepcopy(student.state_dict()), 0, 0
    while epoch < course.epochs and since < max(3, _PATIENCE * course.epochs):
        each_epoch(epoch)
        for rows in torch.split(torch.randperm(len(taught), generator=draw), BATCH):
            _step(student, teacher, taught.rows(rows), loss, draw, optimiser)
            schedule.step()
        epoch, since, now = epoch + 1, since + 1, judged()
        if not math.isfinite(now):
            raise NotAchievedError("training diverges: the loss is no number")
        if now < best:
            best, kept, since = now, copy.deepcopy(student.state_dict()), 0
    student.load_state_dict(kept)
    student.eval()
    labelled = taught.labels is not None and any(kind != "values" for kind in kinds)
    early, steps = epoch < course.epochs, epoch * per_epoch
    return Learned(
        len(taught), len(held_out), labelled, epoch, steps, round(before, 6), round(best, 6), early
    )


def _schedule(optimiser: torch.optim.Optimizer, steps: int) -> Any:
    warm = max(1, int(_WARM * steps))

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _step(
    student: nn.Module,
    teacher: nn.Module,
    batch: TrainingData,
    loss: Loss,
    draw: torch.Generator,
    optimiser: torch.optim.Optimizer,
) -> None:
    inputs, pure = _mixed(batch.inputs, draw)
    with torch.no_grad():
        wanted = tensors(teacher(*inputs))
    optimiser.zero_grad()
    found = loss(tensors(student(*inputs)), wanted, batch.labels, pure)
    torch.autograd.backward(found)
    optimiser.step()


def _mixed(
    inputs: tuple[torch.Tensor, ...], draw: torch.Generator
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Return the inputs, the later half mixed with other rows, and which rows are pure.

    Only float inputs can be mixed; if there are others, all rows stay pure.
    """
    rows = len(inputs[0])
    pure = torch.ones(rows, dtype=torch.bool)
    if not all(x.is_floating_point() for x in inputs):
        return inputs, pure
    share = torch.ones(rows)
    half = rows // 2
    share[rows - half :] = torch.rand(half, generator=draw)
    others = torch.randperm(rows, generator=draw)
    pure[rows - half :] = False
    made = []
    for x in inputs:
        part = share.reshape(-1, *[1] * (x.dim() - 1)).to(x.dtype)
        made.append(part * x + (1 - part) * x[others])
    return tuple(made), pure
