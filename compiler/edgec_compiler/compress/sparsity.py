"""Unstructured and 2:4 pruning: which weights become zero and stay so."""

from collections.abc import Mapping, Sequence

import torch

from edgec_compiler.compress.weights import Matrix

Masks = dict[str, torch.Tensor]
_GROUP, _PER_GROUP = 4, 2


def by_magnitude(
    matrices: Sequence[Matrix], values: Mapping[str, torch.Tensor], ratio: float
) -> Masks:
    """Return masks that leave 1 - `ratio` of all weights, over all layers together.

    A weight's rank is its square over the squares of all weights of its layer that are as large or
    larger: magnitude within a layer, and comparable between layers, of which none is emptied.
    Source: Lee et al. 2021, LAMP, arXiv:2010.07611, eq. 1.
    """
    scores = {matrix.name: _lamp(values[matrix.name]) for matrix in matrices}
    if not scores:
        return {}
    every = torch.cat([score.flatten() for score in scores.values()])
    gone = int(ratio * every.numel())
    order = torch.argsort(every, stable=True)
    kept = torch.ones(every.numel(), dtype=torch.float32)
    kept[order[:gone]] = 0
    parts = torch.split(kept, [score.numel() for score in scores.values()])
    return {
        name: part.reshape(score.shape)
        for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def _lamp(weight: torch.Tensor) -> torch.Tensor:
    square = weight.double().pow(2).flatten()
    order = torch.argsort(square, stable=True)
    larger = square[order].flip(0).cumsum(0).flip(0)
    score = torch.empty_like(square)
    score[order] = square[order] / larger.clamp_min(1e-300)
    return score.reshape(weight.shape)


def two_of_four(
    matrices: Sequence[Matrix], values: Mapping[str, torch.Tensor]
) -> tuple[Masks, tuple[str, ...]]:
    """Return masks with two zeros in every four neighbours along the input channels.

    This is the pattern of sparse tensor cores, for each output channel and kernel place by itself
    (Mishra et al. 2021, arXiv:2104.08378, section 3). Left alone: grouped convolutions, and layers
    whose input channels are no multiple of four; their names come second.
    """
    masks, left = {}, []
    for matrix in matrices:
        weight = values[matrix.name]
        if matrix.grouped or weight.shape[matrix.input_axis] % _GROUP:
            left.append(matrix.name)
            continue
        last = weight.abs().movedim(matrix.input_axis, -1)
        groups = last.reshape(*last.shape[:-1], -1, _GROUP)
        order = torch.argsort(groups, dim=-1, descending=True, stable=True)
        mask = torch.zeros_like(groups).scatter_(-1, order[..., :_PER_GROUP], 1.0)
        masks[matrix.name] = mask.reshape(last.shape).movedim(-1, matrix.input_axis).contiguous()
    return masks, tuple(left)
