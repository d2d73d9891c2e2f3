"""Adaptive frequencies: one table per context, counting what came and forgetting slowly.

A table starts as a two-sided geometric distribution of its level's width, worth `_PRIOR` symbols.
Symbol ``h + 32`` stands for the number h from -30 to 30, 1 for any below and 63 for any above;
0 is not used. Tables change only between blocks of steps, so that numpy can code all lanes of a
block with the same ones.
"""

import numpy as np

from edgec_bundle.delta.tensor.numbers import Ints

SYMBOLS = 64
CENTRE = 32
LIMIT = 31  # numbers of this size and above are escapes
PROBABILITY_BITS = 16
LEVELS = 20  # in half octaves of the expected size: 2**-7 .. 2**3
BUCKETS = 3  # of the fraction that the prediction's rounding left
CONTEXTS = LEVELS * BUCKETS

_PRIOR = 24 * 32
_INCREMENT = 32
_MOST = 4096 * 32
# Ratio of neighbouring probabilities per level, in 1/65536: (sqrt(1 + m*m) - 1) / m for a mean
# size m of 2**(level/2 - 6.75).
_RATIOS = np.array(
    [
        *(304, 431, 609, 861, 1217, 1721, 2432, 3435, 4844, 6814),
        *(9536, 13217, 18012, 23892, 30518, 37278, 43539, 48887, 53191, 56514),
    ],
    np.int64,
)


def _priors() -> Ints:
    sizes = np.empty((LEVELS, CENTRE), np.int64)  # how likely each size is, in 2**-32
    sizes[:, 0] = (65536 - _RATIOS) * (1 << 32) // (65536 + _RATIOS)
    for size in range(1, CENTRE):
        sizes[:, size] = sizes[:, size - 1] * _RATIOS >> 16
    priors = np.zeros((LEVELS, SYMBOLS), np.int64)
    priors[:, CENTRE:] = sizes * _PRIOR >> 32
    priors[:, 1:CENTRE] = priors[:, :CENTRE:-1]
    return priors


_PRIORS = _priors()


def fresh_counts(static: bool) -> Ints:
    """Return [CONTEXTS, SYMBOLS], the counts before anything came."""
    if static:  # a mask: alive or zero alike, the other sign seldom
        counts = np.zeros((CONTEXTS, SYMBOLS), np.int64)
        counts[:, CENTRE : CENTRE + 3] = (2 * _INCREMENT, 2 * _INCREMENT, _INCREMENT >> 2)
        return counts
    return np.repeat(_PRIORS, BUCKETS, axis=0)


def frequencies(counts: Ints) -> Ints:
    """Return the frequencies for [.., SYMBOLS] counts: each at least 1, their sum 65536."""
    total = counts.sum(-1, keepdims=True)
    # Below 2**53 a quotient that is rounded once never reaches the next whole number.
    shares: Ints = 1 + (counts * ((1 << PROBABILITY_BITS) - SYMBOLS) / total).astype(np.int64)
    shares[..., CENTRE] += (1 << PROBABILITY_BITS) - shares.sum(-1)
    return shares


def count(counts: Ints, contexts: Ints, symbols: Ints) -> Ints:
    """Add what came to `counts`, in place, and return the contexts whose tables changed."""
    flat = counts.reshape(-1)
    np.add.at(flat, contexts * SYMBOLS + symbols, _INCREMENT)
    came = np.zeros(len(counts), bool)
    came[contexts] = True
    touched = np.flatnonzero(came)
    tables = counts[touched]
    full = tables.sum(-1) > _MOST
    if full.any():
        counts[touched[full]] -= tables[full] >> 1
    return touched
