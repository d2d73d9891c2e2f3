"""Charts as inline SVG that stretch to any width, with their words outside of the picture.

A picture that is stretched would stretch its letters: so labels are HTML beside it, strokes keep
their width (`vector-effect`), and each picture has its whole meaning as `aria-label`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_STRETCHED = "viewBox='0 0 100 100' preserveAspectRatio=none role=img"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: its name, its length, and its value in words."""

    name: str
    value: float
    words: str
    colour: str = "var(--bar)"


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a scatter plot."""

    x: float
    y: float
    colour: str = "var(--old)"
    large: bool = False


def bars(rows: Sequence[Bar], limit: float | None = None) -> str:
    """Return horizontal bars, the longest as wide as there is room, or at `limit`."""
    longest = limit or max((row.value for row in rows), default=0) or 1
    drawn = "".join(
        f"<span>{escape(row.name)}</span>"
        f"<svg {_STRETCHED} aria-label='{escape(f'{row.name}: {row.words}')}'>"
        f"<rect width={max(0.5, 100 * min(row.value / longest, 1)):.2f} height=100 "
        f"fill='{row.colour}'/></svg><span>{escape(row.words)}</span>"
        for row in rows
    )
    return f"<div class=bars>{drawn}</div>" if drawn else ""


def columns(values: Sequence[float], colours: Sequence[str], top: float, says: str) -> str:
    """Return a column for each value, `top` being the full height, in one picture."""
    step = 100 / max(len(values), 1)
    drawn = "".join(
        f"<rect x={place * step + step * 0.1:.3f} width={step * 0.8:.3f} "
        f"y={100 - height:.2f} height={height:.2f} fill='{colour}'/>"
        for place, (value, colour) in enumerate(zip(values, colours, strict=True))
        if (height := 100 * min(max(value, 0) / top, 1)) > 0
    )
    return f"<svg {_STRETCHED} aria-label='{escape(says)}'>{drawn}</svg>"


def area(values: Sequence[float], says: str) -> str:
    """Return steps that fill what lies below `values`."""
    top, step = max(values, default=0) or 1, 100 / max(len(values), 1)
    path = "M0 100" + "".join(
        f"V{100 - 100 * value / top:.2f}H{(place + 1) * step:.3f}"
        for place, value in enumerate(values)
    )
    return (
        f"<svg {_STRETCHED} aria-label='{escape(says)}'>"
        f"<path d='{path}V100Z' fill='var(--bar)' fill-opacity=.75 /></svg>"
    )


def scatter(points: Sequence[Point], says: str) -> str:
    """Return points within the span of their coordinates, with a margin; y grows upwards."""
    xs, ys = [point.x for point in points], [point.y for point in points]

    def place(value: float, values: Sequence[float]) -> float:
        low, high = min(values), max(values)
        return 50.0 if high == low else 6 + 88 * (value - low) / (high - low)

    drawn = "".join(
        f"<path d='M{place(point.x, xs):.2f} {100 - place(point.y, ys):.2f}h0' "
        f"stroke='{point.colour}' stroke-width={14 if point.large else 9} stroke-linecap=round "
        "vector-effect=non-scaling-stroke />"
        for point in sorted(points, key=lambda point: point.large)
    )
    return f"<svg {_STRETCHED} aria-label='{escape(says)}'>{drawn}</svg>"


def strip(colours: Sequence[str], says: str) -> str:
    """Return one cell per operator, side by side."""
    step = 100 / max(len(colours), 1)
    drawn = "".join(
        f"<rect x={place * step:.3f} width={step:.3f} height=100 fill='{colour}'/>"
        for place, colour in enumerate(colours)
    )
    return f"<div class=strip><svg {_STRETCHED} aria-label='{escape(says)}'>{drawn}</svg></div>"


def plot(picture: str, y: Sequence[str], x: Sequence[str], caption: str) -> str:
    """Return a picture with the words of its axes: `y` from the top, `x` from the left."""
    down = "".join(f"<span>{escape(word)}</span>" for word in y)
    along = "".join(f"<span>{escape(word)}</span>" for word in x)
    return (
        f"<figure><div class=plot><div class=y>{down}</div>{picture}"
        f"<div class=x>{along}</div></div>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def key(entries: Sequence[tuple[str, str]]) -> str:
    """Return what colours mean."""
    items = "".join(
        f"<li><i style='background:{colour}'></i>{escape(name)}</li>" for name, colour in entries
    )
    return f"<ul class=key>{items}</ul>"
