"""The frame and the small parts of a report: headings, tables, figures, sizes in words.

Every function returns HTML; texts are escaped where they enter. Nothing is loaded from anywhere and
nothing runs: colours follow the reader's light or dark setting, columns the width.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files

_STYLE = (files(__package__ or "edgec_compiler.report") / "style.css").read_text("utf-8")


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page."""
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{_STYLE}</style><body><main>{''.join(body)}</main>"
        "</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Return a heading with what belongs to it; nothing if there is nothing."""
    body = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def text(words: str, kind: str = "") -> str:
    """Return a paragraph; `kind` is one of the style's classes."""
    mark = f" class={kind}" if kind else ""
    return f"<p{mark}>{escape(words)}</p>"


def tiles(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return cards of (name, figure, what it means)."""
    cards = (
        f"<div class=tile><span>{escape(name)}</span><b>{escape(figure)}</b>"
        f"<span>{escape(meaning)}</span></div>"
        for name, figure, meaning in rows
    )
    return f"<div class=tiles>{''.join(cards)}</div>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = (), on: int = -1
) -> str:
    """Return a table; columns of `numbers` stand to the right, row `on` is set off."""
    right = set(numbers)

    def cells(row: Sequence[str], tag: str) -> str:
        marks = ("n" if place in right else "t" for place in range(len(row)))
        scope = " scope=col" if tag == "th" else ""
        return "".join(
            f"<{tag}{scope} class={mark}>{escape(cell)}</{tag}>"
            for mark, cell in zip(marks, row, strict=True)
        )

    body = [
        f"<tr{' class=on' if place == on else ''}>{cells(row, 'td')}</tr>"
        for place, row in enumerate(rows)
    ]
    if not body:
        return ""
    top = f"<thead><tr>{cells(head, 'th')}</tr></thead>"
    return f"<div class=wide tabindex=0><table>{top}<tbody>{''.join(body)}</tbody></table></div>"


def facts(head: tuple[str, str], rows: Mapping[str, object]) -> str:
    """Return a table of names and values."""
    return table(head, [(name, str(value)) for name, value in rows.items()])


def folded(summary: str, body: str) -> str:
    """Return `body` behind a line that unfolds it; nothing if it is empty."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>" if body else ""


def notes(lines: Sequence[str]) -> str:
    """Return notes that a reader must not miss."""
    items = "".join(f"<li>{escape(line)}</li>" for line in dict.fromkeys(lines))
    return f"<aside class=notes><ul>{items}</ul></aside>" if items else ""


def milliseconds(value: float) -> str:
    """Return a time in words, with three figures: "1.2 us", "0.385 ms", "3.1 s"."""
    if value < 0.1:
        return f"{value * 1e3:.3g} \N{MICRO SIGN}s"
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1e3:.3g} s"
