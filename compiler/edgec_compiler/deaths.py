"""How a child process ended, for messages."""

import os
import signal
from typing import IO

_LOG_LINES = 15
_LOG_BYTES = 64 << 10
_LINE_CHARS = 300


def how_it_ended(status: int) -> str:
    """Return "was killed by SIGSEGV" or "ended with status 1"; `status` as `Popen.returncode`."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def last_lines(log: IO[bytes]) -> list[str]:
    """Return the end of what a process said into a file, without blank ends, lines cut short."""
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - _LOG_BYTES))
    lines = log.read().decode("utf-8", "replace").strip().splitlines()[-_LOG_LINES:]
    return [line[:_LINE_CHARS] for line in lines]
