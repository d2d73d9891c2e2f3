"""Synthetic motion of a wrist: eight gestures as paths in space, felt by a tilted, noisy sensor.

The sensor gives accelerations (with gravity) and turning rates as 16-bit counts. Speed, size, tilt,
start, tremor, bias and noise are drawn anew for every sample.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from training.splits import Splits, drawn

STEPS, RATE = 64, 50  # samples per window, and per second
LABELS = ("still", "wave", "circle", "eight", "push", "zigzag", "shake", "tap")
_GRAVITY = 9.81
_COUNTS_PER_ACCELERATION, _COUNTS_PER_TURN = 32768 / 40, 32768 / 18  # +-40 m/s2, +-18 rad/s
Path = NDArray[np.float64]


@cache
def splits() -> Splits:
    """Return the data, the same at every call."""
    return drawn(
        _window,
        LABELS,
        training=4000,
        calibration=200,
        evaluation=400,
        acceptance=96,
    )


def _window(gesture: str, draw: np.random.Generator) -> NDArray[np.int16]:
    """Return int16 [64, 6]."""
    time = np.arange(STEPS) / RATE
    begin, length = draw.uniform(0, 0.35), draw.uniform(0.7, 1.1)
    phase = np.clip((time - begin) / length, 0, 1)
    size = draw.uniform(0.5, 1.4)
    moved = _path(gesture, phase, time, draw) * size
    moved += np.cumsum(draw.normal(0, 0.0008, (STEPS, 3)), 0)  # tremor
    speed = np.gradient(moved, 1 / RATE, axis=0)
    acceleration = np.gradient(speed, 1 / RATE, axis=0)
    turning = np.cross(speed, [0.0, 0.0, 1.0]) * 2.2 + speed[:, [2, 0, 1]]
    tilt = _rotation(draw.normal(0, 0.4, 3))
    felt = (acceleration + np.array([0, 0, _GRAVITY])) @ tilt.T + draw.normal(0, 0.3, 3)
    felt += draw.normal(0, draw.uniform(0.2, 0.9), felt.shape)
    turned = turning @ tilt.T + draw.normal(0, draw.uniform(0.05, 0.4), turning.shape)
    counts = np.hstack([felt * _COUNTS_PER_ACCELERATION, turned * _COUNTS_PER_TURN])
    return np.clip(np.rint(counts / 16) * 16, -32768, 32767).astype(np.int16)


def _path(gesture: str, phase: Path, time: Path, draw: np.random.Generator) -> Path:
    """Return places in metres, [64, 3]."""
    turn = 2 * np.pi * phase
    ease = np.sin(np.pi * phase)
    zero = np.zeros(STEPS)
    pace = draw.uniform(0.85, 1.15)
    match gesture:
        case "wave":
            parts = (0.16 * np.sin(2 * turn * pace) * ease, 0.03 * np.sin(4 * turn * pace), zero)
        case "circle":
            parts = (0.14 * (1 - np.cos(turn)), zero, 0.14 * np.sin(turn))
        case "eight":
            parts = (0.14 * np.sin(turn), zero, 0.09 * np.sin(2 * turn))
        case "push":
            parts = (zero, 0.22 * np.sin(np.pi * phase) ** 2, zero)
        case "zigzag":
            saw = 2 * np.abs((3 * phase * pace) % 1 - 0.5)
            parts = (0.25 * phase, zero, 0.1 * np.convolve(saw, np.ones(5) / 5, "same") * ease)
        case "shake":
            parts = (0.035 * np.sin(2 * np.pi * 5.5 * pace * time) * ease, zero, zero)
        case "tap":
            pulse = np.exp(-0.5 * ((phase - draw.uniform(0.3, 0.6)) / 0.05) ** 2)
            parts = (zero, zero, -0.04 * pulse)
        case _:
            parts = (0.01 * ease, zero, zero)
    return np.stack(parts, 1)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation by `angles` about x, y and z."""
    made = np.eye(3)
    for axis, angle in enumerate(angles):
        one = np.eye(3)
        a, b = (axis + 1) % 3, (axis + 2) % 3
        one[a, a] = one[b, b] = np.cos(angle)
        one[a, b], one[b, a] = -np.sin(angle), np.sin(angle)
        made = one @ made
    return made
