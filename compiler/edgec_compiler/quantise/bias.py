"""Bias correction: what rounding the weights adds to a layer's output on average goes off its bias.

E[W' x] - E[W x] = (W' - W) E[x], where W' are the rounded weights and E[x] is the mean of the
layer's input patches over the calibration data, in the float model (Nagel et al. 2019,
arXiv:1906.04721, section 4.2, eq. 16-18, with the mean measured as in section 4.2.2).

Corrected: layers with int8 weights and a bias in integers. Left alone: all others.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from edgec_compiler.requantise.layer import Array, FloatLayer, Floats, QuantisedLayer, Values

Feeds = Mapping[str, Array]
_LIMIT = 2**31 - 1


class QuantisedModel(Protocol):
    """A float model beside its int8 form, their layers numbered alike."""

    exact: tuple[FloatLayer | None, ...]
    ordinary: tuple[QuantisedLayer | None, ...]

    def with_values(self, values: Mapping[int, Values]) -> bytes:
        """Return the quantised file with other constants."""

    def activations(
        self, names: Sequence[str], samples: Iterable[Feeds]
    ) -> Iterator[dict[str, Array]]:
        """Yield the float values of tensors, sample by sample."""


def correct_biases(
    model: QuantisedModel, samples: Callable[[], Iterator[Feeds]]
) -> tuple[bytes, int]:
    """Return the quantised file with corrected biases, and how many layers were corrected.

    Args:
        model: float and quantised.
        samples: the calibration data, as the float model reads it.
    """
    layers = {
        index: (exact, made)
        for index, (exact, made) in enumerate(zip(model.exact, model.ordinary, strict=True))
        if exact is not None and made is not None and made.bias is not None
    }
    means = _means({index: exact for index, (exact, _) in layers.items()}, model, samples())
    values = {
        index: _corrected(exact, made, means[index])
        for index, (exact, made) in layers.items()
        if index in means
    }
    return model.with_values(values), len(values)


def _means(
    layers: Mapping[int, FloatLayer], model: QuantisedModel, samples: Iterator[Feeds]
) -> dict[int, Floats]:
    """Return the mean input patch [G, K] of every layer; memory does not grow with samples."""
    sums: dict[int, Floats] = {}
    count = 0
    names = tuple(dict.fromkeys(layer.reads for layer in layers.values()))
    for count, found in enumerate(model.activations(names, samples), 1):
        for index, layer in layers.items():
            mean = layer.rows(found[layer.reads], count).mean(axis=1, dtype=np.float64)
            sums[index] = sums.get(index, 0.0) + mean
    return {index: total / count for index, total in sums.items()}


def _corrected(exact: FloatLayer, made: QuantisedLayer, mean: Floats) -> Values:
    rounded = made.scales[:, :, None].astype(np.float64) * made.q
    shift = np.einsum("grk,gk->gr", rounded - exact.weights, mean)
    steps = np.rint(shift / (made.scales.astype(np.float64) * float(made.input_scale)))
    before = np.zeros_like(steps, np.int64) if made.bias is None else made.bias
    bias = np.clip(before - steps.astype(np.int64), -_LIMIT, _LIMIT)
    return Values(made.q, made.scales, bias)
