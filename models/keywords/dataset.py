"""Synthetic spoken words: voiced formants that glide, hisses and pauses, by many voices, in noise.

A word is a sequence of sounds. Pitch, length of the vocal tract, speed, loudness, start and noise
are drawn anew for every sample, so no two samples of a word are alike.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray
from training.splits import Splits, drawn

RATE = 8000
LENGTH = 4096  # samples: half a second
_STEP = 64  # of a sample's 16 bits ten are used, as a small microphone has them; it packs better
Signal = NDArray[np.float64]

# Vowels by their two lowest formants in Hz (Peterson and Barney 1952, rounded).
_VOWELS = {"i": (270, 2290), "e": (530, 1840), "a": (730, 1090), "o": (570, 840), "u": (300, 870)}
# Hisses by the band in Hz that they fill; "-" is the pause before a stop.
_HISSES = {"s": (2600, 3900), "f": (900, 3600), "k": (1200, 2200), "-": (0, 0)}
_WORDS = {
    "yes": "ies", "no": "oou", "up": "a-f", "down": "-aou", "left": "ef-k",
    "right": "aei-", "stop": "s-o-", "go": "kou",
}  # fmt: skip
LABELS = (*_WORDS, "unknown", "silence")


@cache
def splits() -> Splits:
    """Return the data, the same at every call."""
    return drawn(
        _sample,
        LABELS,
        training=2400,
        calibration=60,
        evaluation=200,
        acceptance=50,
    )


def _sample(label: str, draw: np.random.Generator) -> NDArray[np.int16]:
    """Return int16 [4096]: one word somewhere in half a second of noise."""
    signal = np.zeros(LENGTH)
    if label != "silence":
        word = _spoken(_WORDS.get(label) or _unknown(draw), draw)[:LENGTH]
        start = draw.integers(0, max(1, LENGTH - len(word)))
        signal[start : start + len(word)] = word * draw.uniform(0.35, 1.0)
    noise = np.convolve(draw.normal(size=LENGTH), [1, draw.uniform(0, 0.9)], "same")
    signal += noise * draw.uniform(0.01, 0.16)
    return np.clip(np.rint(signal * 9000 / _STEP) * _STEP, -32768, 32767).astype(np.int16)


def _unknown(draw: np.random.Generator) -> str:
    """Return sounds that are no known word."""
    while True:
        sounds = "".join(draw.choice([*_VOWELS, *_HISSES], draw.integers(2, 5)))
        if sounds not in _WORDS.values() and set(sounds) & set(_VOWELS):
            return sounds


def _spoken(sounds: str, draw: np.random.Generator) -> Signal:
    """Return `sounds` in one voice, at most about 1 in amplitude."""
    pitch, tract, speed = draw.uniform(90, 240), draw.uniform(0.88, 1.16), draw.uniform(0.8, 1.25)
    lengths = [int(RATE * 0.105 * draw.uniform(0.8, 1.2) / speed) for _ in sounds]
    pieces = []
    for index, (sound, length) in enumerate(zip(sounds, lengths, strict=True)):
        if sound in _VOWELS:
            after = sounds[index + 1 : index + 2]
            target = after if after in _VOWELS and after else sound
            pieces.append(_voiced(sound, target, length, pitch, tract, draw))
        else:
            pieces.append(_hiss(_HISSES[sound], length, draw))
        pitch *= draw.uniform(0.9, 1.1)
    return np.concatenate(pieces)


def _voiced(
    sound: str, target: str, length: int, pitch: float, tract: float, draw: np.random.Generator
) -> Signal:
    """Return harmonics of `pitch` under two formants that glide to those of `target`."""
    glide = np.linspace(0, 0.8, length)[:, None]
    formants = (1 - glide) * np.array(_VOWELS[sound]) + glide * np.array(_VOWELS[target])
    formants = formants * tract * draw.uniform(0.96, 1.04, 2)
    harmonics = np.arange(1, int(RATE / 2 / pitch))
    hertz = harmonics * pitch
    widths = np.array([90.0, 130.0])
    away = (hertz[None, :, None] - formants[:, None, :]) / widths
    levels = (np.array([1.0, 0.6]) / (1 + away**2)).sum(-1)
    phase = 2 * np.pi * np.arange(length)[:, None] * hertz / RATE + draw.uniform(0, 6.3)
    return _eased((levels * np.sin(phase)).sum(1) * 0.35)


def _hiss(band: tuple[int, int], length: int, draw: np.random.Generator) -> Signal:
    """Return noise of `band` Hz, silence for an empty one."""
    spectrum = np.fft.rfft(draw.normal(size=length))
    hertz = np.fft.rfftfreq(length, 1 / RATE)
    spectrum[(hertz < band[0]) | (hertz > band[1])] = 0
    return _eased(np.fft.irfft(spectrum, length) * 0.5)


def _eased(signal: Signal) -> Signal:
    """Return `signal` without clicks at its ends."""
    ease = min(80, len(signal) // 4)
    ramp = np.ones(len(signal))
    ramp[:ease] = np.linspace(0, 1, ease)
    ramp[-ease:] = np.linspace(1, 0, ease)
    return signal * ramp
