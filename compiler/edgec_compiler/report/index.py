"""One page that compares the targets of a compile run."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from edgec_compiler.report.charts import Bar, bars
from edgec_compiler.report.html import document, milliseconds, section, text
from edgec_compiler.report.summary import points
from edgec_compiler.sizes import accelerated_share, human_bytes

Facts = Mapping[str, Any]
_HEAD = ("target", "precision", "model", "accuracy", "agrees", "latency", "accelerated")


def index_page(title: str, made: Sequence[Facts], failed: Mapping[str, str]) -> str:
    """Return the page.

    Args:
        title: of the run.
        made: what `edgec compile --json` prints for each target that was made; each has its
            report at TARGET/report.html beside this page.
        failed: why each of the others was not.
    """
    total = len(made) + len(failed)
    told = f"{len(made)} of {total} targets made." if failed else f"All {total} targets made."
    source = made[0]["bytes"]["source"] if made else 0
    sizes = [Bar("source file", source, human_bytes(source), "var(--old)")]
    sizes += [Bar(o["target"], o["bytes"]["model"], human_bytes(o["bytes"]["model"])) for o in made]
    times = [
        Bar(
            o["target"],
            o["latency_ms"]["p50"],
            _latency(o),
            "var(--bar)" if o["latency_ms"]["measured"] else "var(--old)",
        )
        for o in made
        if o["latency_ms"] is not None
    ]
    return document(
        title,
        [
            f"<header><h1>{escape(title)}</h1></header>",
            text(told, "'verdict " + ("warn" if failed else "good") + "'"),
            _table(made),
            section("Not made", *(text(f"{name}: {why}") for name, why in failed.items())),
            section("Size", bars(sizes)) if made else "",
            section("Latency", bars(times)) if times else "",
        ],
    )


def _table(made: Sequence[Facts]) -> str:
    if not made:
        return ""
    head = "".join(f"<th scope=col>{name}</th>" for name in _HEAD)
    body = "".join(f"<tr>{_row(one)}</tr>" for one in made)
    return (
        f"<div class=wide tabindex=0><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(one: Facts) -> str:
    name, accuracy, ops = escape(one["target"]), one["accuracy"], one["ops"]
    cells = [
        f"<a href='{name}/report.html'>{name}</a>",
        escape(one["precision"]),
        human_bytes(one["bytes"]["model"]),
        "no labels" if accuracy is None else _accuracy(accuracy),
        f"{one['agreement']:.2%}",
        escape(_latency(one)),
        _accelerated(ops),
    ]
    return "".join(f"<td>{cell}</td>" for cell in cells)


def _accelerated(ops: Facts) -> str:
    mapped = ops.get("file", ops)
    return accelerated_share(ops) if mapped["accelerated"] else "CPU only"


def _accuracy(accuracy: Facts) -> str:
    return f"{accuracy['compiled']:.2%} ({points(accuracy['compiled'] - accuracy['source'])})"


def _latency(one: Facts) -> str:
    latency = one["latency_ms"]
    if latency is None:
        return "unknown"
    if latency["measured"]:
        return f"{milliseconds(latency['p50'])} (p50)"
    return f"about {milliseconds(latency['p50'])} (estimate)"
