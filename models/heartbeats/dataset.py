"""Synthetic electrocardiograms of six rhythms, with drift, noise and many hearts' shapes.

A beat is a sum of five Gaussian waves P, Q, R, S, T, as in McSharry et al. 2003 (IEEE Trans.
Biomed. Eng. 50(3)), where amplitudes and widths come from; when beats follow makes the rhythm.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from training.splits import Splits, drawn

RATE, LENGTH = 64, 256  # samples per second; four seconds
LABELS = ("normal", "fast", "slow", "irregular", "premature", "noise")
# Waves as (seconds after R, millivolts, seconds wide).
_BEAT = {
    "P": (-0.17, 0.15, 0.025), "Q": (-0.03, -0.12, 0.011), "R": (0.0, 1.0, 0.013),
    "S": (0.03, -0.25, 0.012), "T": (0.24, 0.3, 0.045),
}  # fmt: skip
_PREMATURE = {"R": (0.0, 1.1, 0.04), "S": (0.08, -0.5, 0.05), "T": (0.3, -0.35, 0.06)}
Signal = NDArray[np.float64]


@cache
def splits() -> Splits:
    """Return the data, the same at every call."""
    return drawn(
        _recording,
        LABELS,
        training=3600,
        calibration=200,
        evaluation=360,
        acceptance=96,
    )


def _recording(rhythm: str, draw: np.random.Generator) -> NDArray[np.int16]:
    """Return int16 [256], in microvolts."""
    time = np.arange(LENGTH) / RATE
    signal = np.zeros(LENGTH)
    shape = {name: draw.normal(1, 0.12, 3) for name in _BEAT}
    for place, premature in _beats(rhythm, draw):
        waves = _PREMATURE if premature else _BEAT
        for name, wave in waves.items():
            if name == "P" and rhythm == "irregular":
                continue  # atria that flutter make no P wave
            after, height, width = np.array(wave) * shape[name]
            signal += height * np.exp(-0.5 * ((time - place - after) / width) ** 2)
    if rhythm == "irregular":
        signal += 0.06 * np.sin(2 * np.pi * draw.uniform(5, 8) * time + draw.uniform(0, 6))
    if rhythm == "noise":
        signal += np.convolve(draw.normal(0, 0.5, LENGTH), np.ones(3) / 2, "same")
    signal *= draw.uniform(0.7, 1.3)
    signal += draw.uniform(0, 0.15) * np.sin(2 * np.pi * draw.uniform(0.1, 0.4) * time)
    signal += draw.normal(0, draw.uniform(0.01, 0.07), LENGTH)
    return np.clip(np.rint(signal * 200) * 5, -32768, 32767).astype(np.int16)


def _beats(rhythm: str, draw: np.random.Generator) -> list[tuple[float, bool]]:
    """Return (seconds, premature) of every beat."""
    if rhythm == "noise":
        return []
    per_minute = {"fast": (105, 150), "slow": (36, 55), "irregular": (70, 115)}
    pause = 60 / draw.uniform(*per_minute.get(rhythm, (60, 98)))
    jitter = 0.22 if rhythm == "irregular" else 0.025
    place, found = draw.uniform(-pause, 0), []
    while place < LENGTH / RATE + 0.5:
        found.append((place, False))
        place += pause * float(np.clip(draw.normal(1, jitter), 0.55, 1.6))
    if rhythm == "premature":
        inside = [i for i, (at, _) in enumerate(found) if 0.5 < at < LENGTH / RATE - 0.4]
        number = int(draw.choice(inside))
        found[number] = (found[number][0] - pause * draw.uniform(0.25, 0.42), True)
    return found
