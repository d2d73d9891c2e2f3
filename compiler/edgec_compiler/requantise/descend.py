"""Int8 weights near the deployed ones that lose least: coordinate descent on the layer's error.

For one layer, with weight errors e (in real units) and the curvature H of its inputs, minimise

    importance * e H e'  +  price * (number of weights that differ from the deployed model)

over integers. One column after the other takes its best integer while all others stand, so that
whatever error a kept old value leaves is made up for by the other weights of its row, which is what
GPTQ and SparseGPT do once from left to right (arXiv:2210.17323, 2301.00774). Here every column
sees every other, earlier ones too, several times, starting from ordinary rounding, and the sum
above never grows. A weight that is exactly zero stays zero: pruning has put it there, and rows of
zeros compress better than anything that is kept.
"""

import numpy as np

from edgec_compiler.requantise.layer import Array, Int8, Singles

SWEEPS = 4
_BLOCK = 64  # columns between two updates of the rest; changes the speed only


def descend(
    wanted: Array,
    deployed: Int8,
    hessian: Singles,
    weight: Array,
    price: float,
    limit: int,
    *,
    sweeps: int = SWEEPS,
) -> Int8:
    """Return integers [G, R, K] for every weight.

    Args:
        wanted: [G, R, K], real weights in steps of the new grid; 0 stays 0.
        deployed: [G, R, K], integers of the old model.
        hessian: [G, K, K], positive definite.
        weight: [G, R], what a squared step of a row's output error counts, > 0.
        price: of a weight that differs from the deployed one; 0: error is all that counts,
            infinite: every deployed value stays that the new grid can represent.
        limit: the largest magnitude of an integer.
        sweeps: at most that often over all columns; 0 gives ordinary rounding, each weight by
            itself.
    """
    target = _turned(wanted)
    pruned = target == 0
    old = np.where(pruned, np.float32(0), np.clip(_turned(deployed), -limit, limit))
    if np.isinf(price):
        return _turned(old).astype(np.int8)
    q = np.clip(np.rint(target), -limit, limit)
    slope: Singles = np.matmul(
        hessian, q - target, dtype=np.float32
    )  # half the derivative of the error, [G, K, R]
    curve = np.einsum("gkk->gk", hessian)
    scaled = weight.astype(np.float32)
    for _ in range(sweeps):
        if not _sweep(q, old, pruned, slope, hessian, curve, scaled, price, limit):
            break
    return _turned(q).astype(np.int8)


def _sweep(
    q: Singles,
    old: Singles,
    pruned: Array,
    slope: Singles,
    hessian: Singles,
    curve: Singles,
    weight: Singles,
    price: float,
    limit: int,
) -> bool:
    """Go over all columns once, changing `q` and `slope`; return whether anything changed."""
    columns, changed = q.shape[1], False
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        moves = np.zeros_like(q[:, start:end])
        for j in range(start, end):
            best = q[:, j] - slope[:, j] / curve[:, j, None]
            near = np.clip(np.rint(best), -limit, limit)
            gain = np.square(old[:, j] - best) - np.square(near - best)
            kept = pruned[:, j] | (weight * curve[:, j, None] * gain <= price)
            made = np.where(kept, old[:, j], near)
            move = made - q[:, j]
            if move.any():
                changed = True
                q[:, j] = made
                moves[:, j - start] = move
                slope[:, start:end] += hessian[:, start:end, j, None] * move[:, None]
        if moves.any():
            for rest in (slice(0, start), slice(end, columns)):
                slope[:, rest] += hessian[:, rest, start:end] @ moves
    return changed


def _turned(values: Array) -> Singles:
    """Return [G, R, K] as [G, K, R] and back, contiguous: a column is then one piece of memory."""
    return np.ascontiguousarray(values.transpose(0, 2, 1), np.float32)
