"""What a compile shows while it runs: a block of lines that is redrawn in place, or plain lines.

Written by hand: the text is short and ASCII, so that cutting lines to the terminal's width is all
there is to do, and no library is needed for it.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TextIO

_TICK_S = 0.25
_COLOURS = {"done": "32", "failed": "31", "waiting": "2"}


class Progress(Protocol):
    """Hears what happens."""

    def step(self, target: str | None, step: str) -> None:
        """Tell that a target, or what all of them share, begins a step."""

    def end(self, target: str, outcome: str) -> None:
        """Tell that a target has ended, "done" or "failed"."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Make room for something that is printed."""

    def close(self) -> None:
        """Leave the terminal as it should be."""


def progress_for(targets: Sequence[str], *, quiet: bool = False) -> Progress:
    """Return a block where stderr is a terminal that can redraw, else plain lines, or nothing.

    Args:
        targets: by name, in the order in which they are shown.
        quiet: a program listens: show nothing where nobody sees a block.
    """
    stream = sys.stderr
    if not stream.isatty() or os.environ.get("TERM", "") in ("", "dumb"):
        return PlainLines(None if quiet else stream)
    return Block(targets, stream, colour="NO_COLOR" not in os.environ)


class PlainLines:
    """One line per step; none without a stream."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def step(self, target: str | None, step: str) -> None:
        """Print the step."""
        if self._stream is not None:
            text = f"  {step}" if target is None else f"  {target}: {step}"
            print(text, file=self._stream, flush=True)

    def end(self, target: str, outcome: str) -> None:
        """Print nothing: the result is a line of its own."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Change nothing."""
        yield

    def close(self) -> None:
        """Change nothing."""


@dataclass(slots=True)
class _Line:
    step: str = "waiting"
    began: float | None = None
    took: float | None = None


class Block:
    """A line for what is shared and one per target: step and time, redrawn in place."""

    def __init__(self, targets: Sequence[str], stream: TextIO, *, colour: bool) -> None:
        self._stream, self._colour = stream, colour
        self._lines: dict[str | None, _Line] = {None: _Line("start", time.monotonic())}
        self._lines |= {target: _Line() for target in targets}
        self._drawn = 0  # lines above the cursor that are ours
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()

    def step(self, target: str | None, step: str) -> None:
        """Show the step, and the time since the target's first."""
        with self._lock:
            line = self._lines.setdefault(target, _Line())
            line.step = step
            line.began = line.began or time.monotonic()
            shared = self._lines[None]
            if target is not None and shared.took is None and shared.began is not None:
                shared.step, shared.took = "done", time.monotonic() - shared.began
            self._draw()

    def end(self, target: str, outcome: str) -> None:
        """Show how the target ended, and how long it took."""
        with self._lock:
            line = self._lines.setdefault(target, _Line())
            line.step = outcome
            line.took = 0.0 if line.began is None else time.monotonic() - line.began
            self._draw()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the block away while something is printed, then draw it below."""
        with self._lock:
            self._stream.write(self._erased())
            self._stream.flush()
            self._drawn = 0
            yield
            self._draw()

    def close(self) -> None:
        """Take the block away: what it said is said by the results."""
        self._over.set()
        self._ticker.join()
        with self._lock:
            self._stream.write(self._erased())
            self._stream.flush()
            self._drawn = 0

    def _tick(self) -> None:
        while not self._over.wait(_TICK_S):
            with self._lock:
                self._draw()

    def _draw(self) -> None:
        """Write one frame, in one write, so that nothing flickers. The caller holds the lock."""
        try:
            width, height = os.get_terminal_size(self._stream.fileno())
        except OSError:
            width, height = 80, 24
        shown = self._shown(max(1, height - 1))
        name_width = max(len(name or "all") for name in self._lines)
        frame = [self._erased()]
        frame += [self._text(name, line, name_width, width or 80) for name, line in shown]
        self._stream.write("".join(frame))
        self._stream.flush()
        self._drawn = len(shown)

    def _erased(self) -> str:
        """Return what takes the cursor to the block's first line and clears from there."""
        return f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else "\r"

    def _shown(self, room: int) -> list[tuple[str | None, _Line]]:
        """Return the lines that fit: those at work before those that wait or have ended."""
        lines = list(self._lines.items())
        if len(lines) <= room:
            return lines
        busy = [name for name, line in lines if line.began is not None and line.took is None]
        rest = [name for name, _ in lines if name not in busy]
        chosen = set([*busy, *rest][:room])
        return [(name, line) for name, line in lines if name in chosen]

    def _text(self, name: str | None, line: _Line, name_width: int, width: int) -> str:
        took = line.took
        if took is None and line.began is not None:
            took = time.monotonic() - line.began
        clock = "" if took is None else f"{int(took) // 60}:{int(took) % 60:02d}"
        text = f"  {name or 'all':<{name_width}}  {clock:>5}  {line.step}"[: width - 1]
        code = _COLOURS.get(line.step) if self._colour else None
        return f"{text}\n" if code is None else f"\x1b[{code}m{text}\x1b[0m\n"
