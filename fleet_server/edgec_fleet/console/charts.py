"""Small charts as inline SVG, each with a text alternative. One idea a chart."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a stacked bar."""

    kind: str  # a Badge.kind: decides the colour
    label: str
    count: int


def stacked_bar(parts: Sequence[Part], title: str) -> Markup:
    """Return a horizontal bar of `parts`, widths in proportion; empty parts are left out."""
    total = sum(part.count for part in parts)
    told = ", ".join(f"{part.count} {part.label}" for part in parts if part.count) or "none"
    bars = Markup("")
    x = 0.0
    for part in parts:
        if not part.count:
            continue
        width = 100 * part.count / total
        bars += Markup(
            '<rect class="fill-{}" x="{:.3f}" y="0" width="{:.3f}" height="8">'
            "<title>{} {}</title></rect>"
        ).format(part.kind, x, max(width - 0.4, 0.2), part.count, part.label)
        x += width
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" '
        'aria-label="{}: {}">'
        '<rect class="fill-none" x="0" y="0" width="100" height="8"/>{}</svg>'
    ).format(title, told, bars)


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity of two versions, with how many samples stand behind each."""

    title: str
    unit: str
    before: float | None
    after: float | None
    before_samples: int
    after_samples: int
    digits: int = 2


def before_after(quantity: Compared) -> Markup:
    """Return two horizontal bars on one axis that starts at zero, with values and samples."""
    top = max(quantity.before or 0.0, quantity.after or 0.0) or 1.0
    rows = Markup("")
    for y, label, value, samples in (
        (0, "before", quantity.before, quantity.before_samples),
        (24, "after", quantity.after, quantity.after_samples),
    ):
        width = 0.0 if value is None else 90 * value / top
        text = "no data yet" if value is None else f"{value:.{quantity.digits}f} {quantity.unit}"
        rows += Markup(
            '<text class="axis" x="0" y="{0}">{1}</text>'
            '<rect class="fill-{2}" x="56" y="{3}" width="{4:.2f}" height="12" rx="1"/>'
            '<text class="value" x="{5:.2f}" y="{0}">{6} <tspan class="axis">n={7}</tspan></text>'
        ).format(
            y + 12,
            label,
            "before" if label == "before" else "busy",
            y + 2,
            width,
            60 + width,
            text,
            samples,
        )
    alternative = (
        f"{quantity.title}: before {_told(quantity.before, quantity)}, "
        f"after {_told(quantity.after, quantity)}"
    )
    return Markup(
        '<figure class="multiple"><figcaption>{}</figcaption>'
        '<svg viewBox="0 0 300 44" role="img" aria-label="{}">'
        '<line class="rule" x1="56" y1="0" x2="56" y2="44"/>{}</svg></figure>'
    ).format(quantity.title, alternative, rows)


def _told(value: float | None, quantity: Compared) -> str:
    return "no data" if value is None else f"{value:.{quantity.digits}f} {quantity.unit}"
