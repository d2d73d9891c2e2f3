"""Weight clustering: a layer's weights become few distinct values, so that files compress well.

k-means in one dimension, seeded as k-means++ does (Arthur and Vassilvitskii 2007); zeros that
pruning made have a centroid of their own. Source: Han et al. 2016, Deep Compression,
arXiv:1510.00149, section 3.
"""

import numpy as np
import numpy.typing as npt
import torch

from edgec_compiler.compress.weights import Clustered

_ROUNDS = 50
_SEEDING = 16_384  # values that the seeding looks at, evenly taken

Floats = npt.NDArray[np.float64]


def k_means(values: Floats, count: int, seed: int) -> Floats:
    """Return at most `count` centroids of `values` (flat), ascending; equal for equal arguments.

    No more centroids than distinct values are returned; then each is one of them.
    """
    distinct = np.unique(values)
    if len(distinct) <= count:
        return distinct
    ordered = np.sort(values)
    centroids = _seeds(ordered[:: -(-len(ordered) // _SEEDING)], distinct, count, seed)
    total = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(_ROUNDS):
        borders = (centroids[1:] + centroids[:-1]) / 2
        ends = np.searchsorted(ordered, borders, side="right")
        edges = np.concatenate([[0], ends, [len(ordered)]])
        sizes, sums = np.diff(edges), np.diff(total[edges])
        moved = np.where(sizes > 0, sums / np.maximum(sizes, 1), centroids)
        if np.array_equal(moved, centroids):
            break
        centroids = np.sort(moved)
    return centroids


def _seeds(values: Floats, distinct: Floats, count: int, seed: int) -> Floats:
    """Return `count` first centroids, each far from the others with high probability."""
    draw = np.random.default_rng(seed)
    chosen = [float(values[draw.integers(len(values))])]
    distance = np.square(values - chosen[0])
    while len(chosen) < count:
        total = distance.sum()
        if total <= 0:  # the looked-at values are used up
            rest = np.setdiff1d(distinct, chosen)
            chosen += [float(v) for v in rest[: count - len(chosen)]]
            break
        place = int(np.searchsorted(np.cumsum(distance), draw.random() * total, side="right"))
        chosen.append(float(values[min(place, len(values) - 1)]))
        distance = np.minimum(distance, np.square(values - chosen[-1]))
    return np.sort(np.array(chosen))


def cluster(
    weight: torch.Tensor, count: int, seed: int, axis: int | None, *, keep_zeros: bool
) -> Clustered:
    """Return `weight` with at most `count` distinct values per layer.

    Args:
        weight: floats.
        count: of centroids.
        seed: of k-means.
        axis: of output channels whose weights are divided by their largest first, so that the
            integers are few once quantised per channel; None: the floats themselves are few.
        keep_zeros: zeros stay zeros.
    """
    scale = torch.ones([1] * weight.dim())
    if axis is not None:
        peak = weight.abs().amax([a for a in range(weight.dim()) if a != axis], keepdim=True)
        scale = torch.where(peak > 0, peak, torch.ones_like(peak))
    values = (weight / scale).double().numpy()
    pinned = ([0.0] if keep_zeros else []) + ([-1.0, 1.0] if axis is not None else [])
    pinned = [one for one in pinned if one in values]
    free = values[~np.isin(values, pinned)]
    found = k_means(free, count - len(pinned), seed) if free.size else np.empty(0)
    centroids = np.sort(np.concatenate([found, pinned]))
    borders = (centroids[1:] + centroids[:-1]) / 2
    index = np.searchsorted(borders, values, side="left")
    for one in pinned:  # exact, whatever lies near
        index[values == one] = int(np.searchsorted(centroids, one))
    return Clustered(
        torch.from_numpy(centroids.astype(np.float32)),
        torch.from_numpy(np.isin(centroids, pinned)),
        torch.from_numpy(index),
        scale,
    )
