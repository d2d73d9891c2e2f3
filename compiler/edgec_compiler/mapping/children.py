"""Runs a vendor's program: arguments as a list, a time limit, its output kept, no crash of ours."""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SHOWN_LINES = 8
_MAX_OUTPUT = 8 << 20


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended and what it said."""

    status: int | None  # None: it was stopped at the time limit
    output: str

    @property
    def failed(self) -> bool:
        """Whether it did not end with status 0."""
        return self.status != 0

    def account(self) -> str:
        """Return how it ended and the end of what it said, for a message."""
        if self.status is None:
            how = "did not end in time"
        elif self.status < 0:
            how = f"crashed with {signal.Signals(-self.status).name}"
        else:
            how = f"ended with status {self.status}"
        lines = [line for line in self.output.strip().splitlines() if line.strip()]
        return f"{how}: {' | '.join(line.strip()[:200] for line in lines[-_SHOWN_LINES:])}"


def run(command: Sequence[str], folder: Path, timeout_s: int) -> Ended:
    """Run `command` in `folder` until it ends or `timeout_s` is over."""
    log = folder / ".output.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            list(command),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(child)
    with log.open("rb") as source:
        text = source.read(_MAX_OUTPUT).decode("utf-8", "replace")
    log.unlink()
    return Ended(status, text)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """End the program and everything that it started, if anything is left."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
