"""Second moments of layers' inputs over the calibration samples: what an error of weights costs.

The moments are sums over patches, so samples stream through one at a time; they are turned into
files when a group of layers is done, so memory does not grow with the model either.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgec_compiler.requantise.layer import Array, FloatLayer, Floats, Singles

DAMPING = 0.01  # of the mean diagonal, as in GPTQ (Frantar et al. 2022, arXiv:2210.17323)
GROUP_BYTES = 512 << 20  # moments held at once; more layers mean one more pass over the samples
Samples = Callable[[Sequence[str]], Iterable[Mapping[str, Array]]]


@dataclass(frozen=True, slots=True)
class Curvature:
    """What weight errors e of a layer cost: ``e @ hessian @ e`` is a row's squared output error.

    For a layer with a bias it is what remains after the bias has taken over the mean error, which
    is ``e @ mean``: then `hessian` is the inputs' covariance.
    """

    hessian: Singles  # [G, K, K], damped, positive definite
    mean: Singles  # [G, K], of the inputs; 0 without a bias

    def loss(self, errors: Array) -> Floats:
        """Return the mean squared output error [G, R] of weight errors [G, R, K]."""
        found: Floats = ((errors @ self.hessian) * errors).sum(2).astype(np.float64)
        return found


@dataclass(slots=True)
class Moments:
    """Sums over the patches x of one layer's input: ``x`` and ``x x'``."""

    square: Floats  # [G, K, K]
    total: Floats  # [G, K]
    patches: int = 0

    @classmethod
    def of(cls, layer: FloatLayer) -> "Moments":
        """Return empty moments for `layer`."""
        groups, _, columns = layer.weights.shape
        return cls(np.zeros((groups, columns, columns)), np.zeros((groups, columns)))

    def add(self, rows: Array) -> None:
        """Add patches [G, P, K]."""
        self.square += rows.transpose(0, 2, 1) @ rows
        self.total += rows.sum(axis=1, dtype=np.float64)
        self.patches += rows.shape[1]

    def curvature(self, *, biased: bool) -> Curvature:
        """Return what follows from the patches so far."""
        count = max(1, self.patches)
        hessian, mean = self.square / count, self.total / count
        if biased:
            hessian -= mean[:, :, None] * mean[:, None, :]
        diagonal = np.arange(mean.shape[1])
        peak = hessian[:, diagonal, diagonal].mean(axis=1)
        hessian[:, diagonal, diagonal] += np.maximum(DAMPING * peak, 1e-12)[:, None]
        kept = mean if biased else np.zeros_like(mean)
        return Curvature(hessian.astype(np.float32), kept.astype(np.float32))


@dataclass(frozen=True, slots=True)
class Curvatures:
    """The curvatures of many layers, in files of `folder`: only one is in memory at a time."""

    folder: Path

    def put(self, index: int, curvature: Curvature) -> None:
        """Keep the curvature of layer `index`."""
        np.save(self.folder / f"{index}.hessian.npy", curvature.hessian)
        np.save(self.folder / f"{index}.mean.npy", curvature.mean)

    def get(self, index: int) -> Curvature:
        """Return the curvature of layer `index`."""
        hessian = np.load(self.folder / f"{index}.hessian.npy")
        return Curvature(hessian, np.load(self.folder / f"{index}.mean.npy"))


def observe(layers: Mapping[int, FloatLayer], samples: Samples, kept: Curvatures) -> None:
    """Put the curvature of every layer into `kept`.

    Args:
        layers: by number.
        samples: called with names of tensors, yields their values, one sample after the other.
        kept: where the curvatures go.
    """
    for group in _grouped(layers):
        moments = {index: Moments.of(layers[index]) for index in group}
        names = list(dict.fromkeys(layers[index].reads for index in group))
        for number, sample in enumerate(samples(names)):
            for index, moment in moments.items():
                layer = layers[index]
                moment.add(layer.rows(sample[layer.reads], number))
        for index in group:
            biased = layers[index].bias is not None
            kept.put(index, moments.pop(index).curvature(biased=biased))


def _grouped(layers: Mapping[int, FloatLayer]) -> Iterator[list[int]]:
    """Yield numbers of layers whose moments fit into memory together."""
    group: list[int] = []
    held = 0
    for number, layer in layers.items():
        groups, _, columns = layer.weights.shape
        size = 8 * groups * columns**2
        if group and held + size > GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(number)
        held += size
    if group:
        yield group
