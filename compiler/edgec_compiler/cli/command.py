"""What every command shares: its entry in the parser, and its output."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgec_compiler.errors import UsageError


def describe(
    parser: argparse.ArgumentParser, example: str, run: Callable[[argparse.Namespace], int]
) -> None:
    """Let `parser` end its --help with `example`, and lead to `run`."""
    parser.epilog = f"example:\n  {example}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.allow_abbrev = False
    parser.set_defaults(run=run)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")


def add_shape(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Add --shape."""
    metavar = "NAME=1,3,224,224"
    parser.add_argument("--shape", action="append", default=[], metavar=metavar, help=help_text)


def refuse_overwriting(output: str, *inputs: str) -> None:
    """Return if `output` is none of `inputs`. Raises UsageError."""
    for given in inputs:
        if Path(output).resolve() == Path(given).resolve():
            raise UsageError(
                f"-o {output}: that is the input {given}: give the result another name"
            )


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def visible(text: str) -> str:
    """Return `text` with what would steer a terminal or break the line written out: names in
    model files are anybody's.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows in columns, the last one ragged."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print(visible("  ".join([*cells, row[-1]]).rstrip()))


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values in two columns."""
    print_table([(f"{name}:", value) for name, value in facts.items()])
