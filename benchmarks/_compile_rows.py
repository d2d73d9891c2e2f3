"""What `compile.py` measured: its rows, the table of them, and where a goal is missed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """What one method did with one model."""

    model: str
    fmt: str
    method: str
    size: int
    accuracy: float | None
    agreement: float
    p50_ms: float
    cpu_s: float


def table(rows: list[tuple[Row, str | None]]) -> list[str]:
    """Return the table of methods; the best peer's accuracy is what edgec is held to."""
    lines = [
        "| model | format | method | bytes | accuracy | agreement | p50 ms | CPU s | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, ratio in rows:
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.4f}"
        cells = (
            row.model,
            row.fmt,
            row.method,
            f"{row.size:,}",
            accuracy,
            f"{row.agreement:.4f}",
            f"{row.p50_ms:.3f}",
            f"{row.cpu_s:.1f}",
            ratio or "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdicts(rows: list[tuple[Row, str | None]]) -> list[str]:
    """Return, per goal, where it is missed."""
    behind, slow = [], []
    for row, ratio in rows:
        if row.method != "edgec":
            continue
        peers = [
            peer
            for peer, _ in rows
            if (peer.model, peer.fmt) == (row.model, row.fmt) and peer.method != "edgec"
        ]
        key = (lambda one: one.agreement) if row.accuracy is None else (lambda one: one.accuracy)
        best = max(map(key, peers), default=0.0)
        if key(row) < best:
            behind.append(f"{row.model} {row.fmt} ({key(row):.4f}, best peer {best:.4f})")
        if ratio is not None and float(ratio) > 1.3:
            slow.append(f"{row.model} {row.fmt} ({ratio})")
    return [
        f"- Accuracy (agreement where there are no labels) below the best peer: {_listed(behind)}.",
        f"- CPU time above 1.3 times the converters': {_listed(slow)}.",
    ]


def _listed(items: list[str]) -> str:
    return ", ".join(items) if items else "nowhere"
