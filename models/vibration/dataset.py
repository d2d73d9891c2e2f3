"""Synthetic vibration of a pump: harmonics of its speed, resonances, bearing noise, and faults.

A sample is the level in dB of 64 bands. A healthy pump runs at many speeds and loads; the faults
are those of rotating machines: imbalance, misalignment, a bearing that knocks, cavitation.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from training.splits import Split, Splits

BANDS = 64
LABELS = ("healthy", "anomalous")
TRAINING, CALIBRATION, EVALUATION, ACCEPTANCE, VALIDATION = 4000, 200, 400, 100, 500
_HERTZ = np.linspace(8, 512, BANDS)
_WIDTH = _HERTZ[1] - _HERTZ[0]
Levels = NDArray[np.float32]


@cache
def splits() -> Splits:
    """Return the data; only the training samples are healthy alone.

    Calibration holds what a device meets, faults too: with the ranges of healthy samples, int8
    would clip the very levels that give a fault away.
    """
    training = _split(TRAINING, 0, faulty=False)
    counts = (EVALUATION, ACCEPTANCE, CALIBRATION, VALIDATION)
    evaluation, acceptance, calibration, validation = (
        _split(count, seed, faulty=True) for seed, count in enumerate(counts, 1)
    )
    return Splits(training, calibration, evaluation, acceptance, validation)


def _split(count: int, seed: int, *, faulty: bool) -> Split:
    """Return `count` samples, every second one anomalous if `faulty`."""
    draw = np.random.default_rng([2026, seed])
    labels = np.arange(count, dtype=np.int64) % 2 if faulty else np.zeros(count, np.int64)
    return Split(np.stack([_levels(bool(label), draw) for label in labels]), labels)


def _levels(faulty: bool, draw: np.random.Generator) -> Levels:
    """Return the band levels of one second, in steps of 0.25 dB, float32 [64]."""
    speed, load = draw.uniform(22, 30), draw.uniform(0.3, 1.0)
    harmonics = load * np.array([1.0, 0.45, 0.25, 0.15, 0.08]) * draw.uniform(0.8, 1.25, 5)
    floor, knock, hiss = 0.015 * (0.5 + load), 0.0, 0.0
    if faulty:
        kind, size = draw.integers(4), draw.uniform(0.3, 1.3)
        if kind == 0:
            harmonics[0] *= 1 + 2.2 * size  # imbalance
        elif kind == 1:
            harmonics[1:3] *= 1 + 2.2 * size  # misalignment
        elif kind == 2:
            knock = 0.16 * size * (0.4 + load)  # a damaged outer race
        else:
            hiss = 0.07 * size * (0.4 + load)  # cavitation
    power = np.zeros(BANDS)
    for number, level in enumerate(harmonics, 1):
        power += _line(number * speed * draw.normal(1, 0.002), level)
    for number in range(1, 6):
        power += _line(number * 3.57 * speed, knock / number**0.5)
        power += 0.3 * _line(number * 3.57 * speed + speed, knock / number**0.5)
    power += (hiss * np.clip((_HERTZ - 150) / 200, 0, 1)) ** 2
    resonance = 1 + 3 * load / (1 + ((_HERTZ - 190 - 30 * load) / 40) ** 2)
    power = power * resonance + (floor * resonance) ** 2 * draw.gamma(8, 1 / 8, BANDS)
    decibels = 10 * np.log10(power + 1e-8)
    return (np.rint(decibels * 4) / 4).astype(np.float32)


def _line(hertz: float, level: float) -> NDArray[np.float64]:
    """Return the power of a line in every band: a Hann window's width about its frequency."""
    return (level * np.exp(-0.5 * ((_HERTZ - hertz) / (0.6 * _WIDTH)) ** 2)) ** 2
