"""Starts and stops the demo's programs: the same commands a person types."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


class DemoError(Exception):
    """The demo can't go on, or something that it checks did not hold."""


def free_ports(count: int) -> list[int]:
    """Return `count` free TCP ports of 127.0.0.1.

    They lie below those that systems give to outgoing connections, so that none takes one before
    the program that is to listen there has started.
    """
    ports: list[int] = []
    for port in random.sample(range(10_000, 32_768), 1000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise DemoError(f"no {count} ports of 127.0.0.1 are free")


_calls: set[subprocess.Popen[str]] = set()  # under way, so that a failed demo can end them


def call(*command: str | Path, ok: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[str]:
    """Run a program of ours to its end. Raises DemoError for an exit code not in `ok`."""
    words = [str(BIN / str(command[0])), *map(str, command[1:])]
    shown = " ".join(map(str, command))
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _calls.add(process)
    try:
        out, err = process.communicate(timeout=300)
    except subprocess.TimeoutExpired as error:
        end_calls()
        raise DemoError(f"{shown}\n  took more than 300 s") from error
    finally:
        _calls.discard(process)
    if process.returncode not in ok:
        raise DemoError(f"{shown}\n  exit code {process.returncode}\n{err or out}")
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def end_calls() -> None:
    """End every call that is still under way, with its children."""
    for process in list(_calls):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def call_json(*command: str | Path) -> Any:
    """Run a program of ours with --json; return what it printed, a list if several lines."""
    lines = call(*command, "--json").stdout.splitlines()
    found = [json.loads(line) for line in lines if line.startswith(("{", "["))]
    return found[0] if len(found) == 1 else found


class Program:
    """A running program of ours with its output in a log file."""

    def __init__(self, name: str, log: Path, *command: str | Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(BIN / str(command[0])), *map(str, command[1:])],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=dict(os.environ, PYTHONUNBUFFERED="1"),
            )

    def wait_for(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return when `ready()`; raise DemoError if the program ends or time runs out."""
        wait_until(ready, seconds, f"{self.name} to be ready ({self.log})", self._check)

    def stop(self) -> None:
        """Ask the program to end; after 20 s, end its whole session."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(timeout=5)

    def kill(self) -> None:
        """End the program without asking, as a power cut does."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=5)

    def _check(self) -> None:
        if self._process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2000:]
            raise DemoError(f"{self.name} ended with code {self._process.returncode}:\n{tail}")


def wait_until(
    done: Callable[[], bool],
    seconds: float,
    what: str,
    check: Callable[[], None] | None = None,
) -> None:
    """Poll `done` until it holds. Raises DemoError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not done():
        if check is not None:
            check()
        if time.monotonic() > deadline:
            raise DemoError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.1)
