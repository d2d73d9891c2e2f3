"""Starts a program that ends when its parent does: `python -m edgec_fleet._child PID PROGRAM ..`.

On Linux the kernel sends SIGTERM when the parent is gone, however it went. Elsewhere a thread of
our own Python children watches the parent.
"""

import ctypes
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_WATCH_S = 1.0


def command(program: Sequence[str]) -> list[str]:
    """Return the command line that runs `program` as a child that dies with this process.

    `program` is an executable with its arguments, or ``["-m", module, ...]`` for Python.
    """
    return [sys.executable, "-m", "edgec_fleet._child", str(os.getpid()), *program]


def die_with_parent(parent: int) -> None:
    """Have this process get SIGTERM when process `parent` is gone; at once if it is already.

    The parent's *thread* that started this process must live as long as the parent does.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: Sequence[str]) -> None:
    """Become the program. Doesn't return, except from a Python module that ended."""
    parent, *program = arguments
    die_with_parent(int(parent))
    if program[0] == "-m":
        sys.argv = [program[1], *program[2:]]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        os.execvp(program[0], program)  # noqa: S606  # the signal's setting survives exec


if __name__ == "__main__":
    main(sys.argv[1:])
