"""What a command gives back, and how it is printed: lines for people, one JSON value for tools."""

import argparse
import getpass
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgec_fleet.audit import Actor
from edgec_fleet.server import Server
from edgec_fleet.settings import Settings


@dataclass(frozen=True, slots=True)
class Output:
    """`data` is printed with --json, `lines` without; `code` is the exit code."""

    data: Any
    lines: Sequence[str] = ()
    code: int = 0

    def text(self, *, as_json: bool) -> str:
        """Return what goes to standard output."""
        return json.dumps(self.data) if as_json else "\n".join(self.lines)


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return lines of aligned columns, or a line that says that there is nothing."""
    if not rows:
        return ["(none)"]
    texts = [list(heads), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(heads))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    ]


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case dict():
            return ",".join(f"{name}={item}" for name, item in sorted(value.items())) or "-"
        case list() | tuple():
            return ",".join(map(str, value)) or "-"
    return str(value)


@contextmanager
def opened(given: argparse.Namespace) -> Iterator[tuple[Server, str, Actor]]:
    """Yield the opened server, the tenant to act in, and who acts: this machine's user."""
    settings = Settings.load(given.dir)
    server = Server.open(settings)
    try:
        yield server, given.tenant or settings.tenant, Actor(f"cli:{getpass.getuser()}"[:255])
    finally:
        server.close()
