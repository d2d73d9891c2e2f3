"""Synthetic photos of ten plane figures: turned, scaled, moved, in any two colours, with noise."""

import math
from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from training.splits import Splits, drawn

SIDE = 32
SCALE = 4  # drawn this much larger, then shrunk: smooth edges
LABELS = (
    "circle", "ring", "triangle", "square", "pentagon",
    "star", "cross", "arrow", "crescent", "bars",
)  # fmt: skip
_LEVELS = 8  # brightness in steps of 8: noise that still packs well
Points = list[tuple[float, float]]


@cache
def splits() -> Splits:
    """Return the data, the same at every call."""
    return drawn(
        _photo,
        LABELS,
        training=6000,
        calibration=100,
        evaluation=300,
        acceptance=60,
    )


def _photo(figure: str, draw: np.random.Generator) -> np.ndarray:
    """Return one photo, uint8 [32, 32, 3]."""
    side = SIDE * SCALE
    ink, ground = _colours(draw)
    mask = Image.new("L", (side, side))
    turn, radius = draw.uniform(-0.4, 0.4), draw.uniform(0.28, 0.44) * side
    middle = side / 2 + draw.uniform(-0.1, 0.1, 2) * side
    _figure(ImageDraw.Draw(mask), figure, middle, radius, turn)
    shape = np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)[..., None] / 255
    slope = draw.uniform(-0.35, 0.35, 2) @ np.mgrid[-1:1:32j, -1:1:32j].reshape(2, -1)
    light = 1 + slope.reshape(SIDE, SIDE, 1)
    pixels = (shape * ink + (1 - shape) * ground) * light + draw.normal(0, 14, (SIDE, SIDE, 3))
    return np.clip(np.rint(pixels / _LEVELS) * _LEVELS, 0, 255).astype(np.uint8)


def _colours(draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return two colours that differ enough to be told apart."""
    while True:
        ink, ground = draw.uniform(20, 235, (2, 3))
        if abs(ink - ground).max() > 90:
            return ink, ground


def _figure(
    pen: ImageDraw.ImageDraw, figure: str, middle: np.ndarray, radius: float, turn: float
) -> None:
    x, y = middle
    box = (x - radius, y - radius, x + radius, y + radius)
    if figure in ("circle", "ring", "crescent"):
        pen.ellipse(box, fill=255)
        inner = {"circle": 0.0, "ring": 0.55, "crescent": 0.8}[figure]
        away = 0.0 if figure != "crescent" else 0.5 * radius
        u, v, r = x + away * math.cos(turn), y + away * math.sin(turn), inner * radius
        pen.ellipse((u - r, v - r, u + r, v + r), fill=0)
        return
    for polygon in _POLYGONS[figure]:
        pen.polygon([_placed(point, middle, radius, turn) for point in polygon], fill=255)


def _placed(
    point: tuple[float, float], middle: np.ndarray, radius: float, turn: float
) -> tuple[float, float]:
    u, v = point[0] * radius, point[1] * radius
    return (
        float(middle[0] + u * math.cos(turn) - v * math.sin(turn)),
        float(middle[1] + u * math.sin(turn) + v * math.cos(turn)),
    )


def _regular(corners: int, inner: float = 1.0) -> Points:
    """Return a regular polygon, or a star whose inner corners lie at `inner`."""
    count = corners if inner == 1.0 else 2 * corners
    radii = [1.0 if inner == 1.0 or i % 2 == 0 else inner for i in range(count)]
    angles = [2 * math.pi * i / count - math.pi / 2 for i in range(count)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


def _box(left: float, top: float, right: float, bottom: float) -> Points:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


_POLYGONS: dict[str, list[Points]] = {
    "triangle": [_regular(3)],
    "square": [_box(-0.75, -0.75, 0.75, 0.75)],
    "pentagon": [_regular(5)],
    "star": [_regular(5, inner=0.4)],
    "cross": [_box(-0.3, -1, 0.3, 1), _box(-1, -0.3, 1, 0.3)],
    "arrow": [[(-0.9, 0), (0, -1), (0.9, 0)], _box(-0.3, 0, 0.3, 1)],
    "bars": [_box(-0.9, top, 0.9, top + 0.4) for top in (-0.9, -0.2, 0.5)],
}
