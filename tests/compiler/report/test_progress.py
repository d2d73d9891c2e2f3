"""What a compile shows while it runs: a block on a terminal, plain lines elsewhere."""

import fcntl
import io
import os
import pty
import re
import select
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from edgec_compiler.cli.progress import Block, PlainLines, progress_for


@contextmanager
def terminal(columns: int, rows: int) -> Iterator[tuple[int, TextIO]]:
    """Yield both ends of a terminal of that size: what a person sees, and the program's stderr."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        yield ours, stream
    os.close(ours)


def told(seen: int) -> str:
    """Return all that was written to the terminal up to now."""
    found = b""
    while select.select([seen], [], [], 0.05)[0]:
        found += os.read(seen, 1 << 16)
    return found.decode()


def screen_of(text: str) -> list[str]:
    """Return the lines that are seen after `text`: moves up, clears to the end, colours."""
    lines, row = [""], 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|[^\x1b]+", text):
        if part.startswith("\x1b["):
            if part.endswith("A"):
                row -= int(part[2:-1])
            elif part.endswith("J"):
                lines = [*lines[:row], ""]
            continue
        for char in part.replace("\r\n", "\n"):
            if char == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif char != "\r":
                lines[row] += char
    return [line for line in lines if line]


def test_a_block_is_redrawn_in_place_with_a_line_for_each_target() -> None:
    with terminal(80, 24) as (seen, stream):
        block = Block(["rpi4", "coral-edgetpu"], stream, colour=False)
        block.step(None, "import")
        block.step("rpi4", "judge")
        shown = screen_of(told(seen))
        block.end("rpi4", "done")
        block.close()
        rest = told(seen)

    assert [line.split() for line in shown] == [
        ["all", "0:00", "done"],
        ["rpi4", "0:00", "judge"],
        ["coral-edgetpu", "waiting"],
    ]
    assert rest.endswith("\x1b[3A\r\x1b[J")  # nothing of it stays on the screen


def test_a_narrow_and_low_terminal_shows_what_fits_and_who_is_at_work() -> None:
    names = [f"target-{n}" for n in range(9)]
    with terminal(24, 5) as (seen, stream):
        block = Block(names, stream, colour=False)
        block.step("target-7", "a step with a long name")
        block.close()
        text = told(seen)

    frame = screen_of(text[: text.rindex("\x1b[")])
    assert len(frame) == 4
    assert all(len(line) < 24 for line in frame)
    assert any(line.split()[0] == "target-7" for line in frame)


def test_colours_are_left_out_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for wanted, no_color in ((True, None), (False, "1")):
        if no_color is not None:
            monkeypatch.setenv("NO_COLOR", no_color)
        with terminal(80, 24) as (seen, stream):
            monkeypatch.setattr(sys, "stderr", stream)
            block = progress_for(["rpi4"])
            block.end("rpi4", "done")
            block.close()
            text = told(seen)
        assert ("\x1b[32m" in text) is wanted


class Dumb(io.StringIO):
    """A terminal that cannot redraw, or a file."""

    def __init__(self, *, tty: bool) -> None:
        super().__init__()
        self.isatty = lambda: tty  # type: ignore[method-assign]


@pytest.mark.parametrize(("tty", "term"), [(False, "xterm"), (True, "dumb"), (True, "")])
def test_plain_lines_elsewhere(tty: bool, term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Dumb(tty=tty)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", written)

    lines = progress_for(["rpi4"])
    lines.step(None, "import")
    lines.step("rpi4", "judge")
    lines.end("rpi4", "done")
    lines.close()

    assert isinstance(lines, PlainLines)
    assert written.getvalue() == "  import\n  rpi4: judge\n"


def test_a_program_that_listens_hears_results_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)

    progress_for(["rpi4"], quiet=True).step(None, "import")

    assert written.getvalue() == ""
