"""Runs all parts of the server on this machine, as child processes that never outlive it.

A part that dies is started again, later each time. Everything a part says goes to
`DIR/logs/<part>.log`; what a person should see goes to standard output as well. Whatever way this
process ends, its children end too: orderly at SIGINT and SIGTERM, by the kernel otherwise.
"""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO

from edgec_fleet._child import command
from edgec_fleet.broker.choice import is_child
from edgec_fleet.errors import ConflictError, SettingsError
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings
from edgec_fleet.web import tls_files

LONGEST_BACKOFF_S = 30.0
GOOD_RUN_S = 60.0  # a part that ran this long starts over with a short backoff
FAILED_STARTS = 3  # of a part that has never been ready: then the whole server gives up
STOP_S = 10.0
LEAVING_S = 4.0  # for the listeners of a killed server to end before another takes their ports
LARGEST_LOG = 10 * 2**20  # then <part>.log becomes <part>.log.1
_POLL_S = 0.1

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PartSpec:
    """One part: its name and the Python module with arguments that runs it."""

    name: str
    module: tuple[str, ...]


def parts(settings: Settings) -> tuple[PartSpec, ...]:
    """Return the parts in the order in which they start; they stop in the reverse order."""
    broker = (PartSpec("broker", ("edgec_fleet.broker",)),) if is_child(settings) else ()
    return (
        *broker,
        PartSpec("web", ("edgec_fleet.web", "operators")),
        PartSpec("devices", ("edgec_fleet.web", "devices")),
        PartSpec("engine", ("edgec_fleet.rollout",)),
        PartSpec("gateway", ("edgec_fleet.gateway",)),
    )


def serve(settings: Settings, say: Say | None = None) -> int:
    """Run the server until SIGINT or SIGTERM.

    Args:
        settings: port 0 means a free one, chosen now.
        say: takes each line for people; standard output if not given.

    Returns:
        The exit code: 0 stopped as asked, 1 a part would not start.

    Raises:
        SettingsError: the folder is not usable.
        ConflictError: another process serves this folder, or listens where it is to listen.
    """
    say = say or _print
    Server.open(settings).close()
    with folder_lock(settings.dir):
        settings = with_free_ports(settings)
        check_ports(settings)
        tls_files("devices", settings)  # once, before several parts want them
        supervisor = Supervisor(settings, parts(settings), say)
        supervisor.handle_signals()
        return supervisor.run()


def with_free_ports(settings: Settings) -> Settings:
    """Return `settings` with every port 0 replaced by one that is free now."""
    chosen = {
        name: replace(address, port=_free_port(address))
        for name in ("http", "devices", "mqtt")
        if (address := getattr(settings, name)).port == 0
    }
    return replace(settings, **chosen)


def check_ports(settings: Settings) -> None:
    """Raise ConflictError if something else listens at one of the server's own addresses."""
    names = ("http", "devices", *(("mqtt",) if is_child(settings) else ()))
    for name in names:
        address: Address = getattr(settings, name)
        deadline = time.monotonic() + LEAVING_S
        while (problem := _bind_problem(address)) == errno.EADDRINUSE:
            if time.monotonic() > deadline:
                raise ConflictError(
                    f"--{name}: something else listens at {address}; choose another port"
                )
            time.sleep(_POLL_S)
        if problem is not None:
            raise SettingsError(f"--{name}: cannot listen at {address}: {os.strerror(problem)}")


class Supervisor:
    """Starts, watches and stops the parts. All children are started by the thread of `run`."""

    def __init__(self, settings: Settings, specs: Sequence[PartSpec], say: Say) -> None:
        self._say = say
        self._logs = settings.dir / "logs"
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        arguments = settings.to_arguments()
        self._parts = [_Part(spec, arguments, self._logs, say) for spec in specs]
        self._stopping = threading.Event()
        self._hurry = threading.Event()

    def handle_signals(self) -> None:
        """Stop at SIGINT and SIGTERM; at a second one, kill."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)

    def run(self) -> int:
        """Run until told to stop, or until a part cannot be started. Returns the exit code."""
        announced = False
        try:
            while not self._stopping.wait(_POLL_S):
                for part in self._parts:
                    part.tend()
                    if part.gave_up:
                        self._say(f"{part.name} could not be started; its last words:")
                        for line in part.last_words():
                            self._say(f"  {line}")
                        return 1
                if not announced and all(part.ready for part in self._parts):
                    announced = True
                    self._say(f"ready; logs in {self._logs}; Ctrl-C stops")
            return 0
        finally:
            self._stop()

    def stop(self) -> None:
        """Have `run` return. May be called from any thread."""
        self._stopping.set()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def _stop(self) -> None:
        # Each its own time: a slow part must not leave the broker none to save what it holds.
        for part in reversed(self._parts):
            part.stop(time.monotonic() + STOP_S, self._hurry)
        self._say("stopped")


class _Part:
    """One child process and its log."""

    def __init__(self, spec: PartSpec, arguments: Sequence[str], logs: Path, say: Say) -> None:
        self.name = spec.name
        self.ready = False
        self.gave_up = False
        self._command = ["-m", *spec.module, *arguments]
        self._say = say
        self._log = _Log(logs / f"{spec.name}.log")
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._started = 0.0
        self._start_at = 0.0
        self._failures = 0
        self._was_ready = False

    def tend(self) -> None:
        """Start the process if it is time to, and notice when it has ended."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self._start()
            return
        code = self._process.poll()
        if code is None:
            return
        self._end_group()
        if time.monotonic() - self._started >= GOOD_RUN_S:
            self._failures = 0
        self._failures += 1
        self._process, self.ready = None, False
        if not self._was_ready and self._failures >= FAILED_STARTS:
            self.gave_up = True
            return
        delay = min(LONGEST_BACKOFF_S, 0.5 * 2.0**self._failures)
        self._start_at = time.monotonic() + delay
        self._say(f"{self.name} ended ({_how(code)}); it is started again in {delay:g} s")

    def stop(self, deadline: float, hurry: threading.Event) -> None:
        """Stop the process and everything it started."""
        if self._process is not None:
            self._process.terminate()
            while self._process.poll() is None:
                if hurry.is_set() or time.monotonic() > deadline:
                    self._say(f"{self.name} did not stop in time and is killed")
                    break
                time.sleep(0.02)
            self._end_group()
            self._process = None
        self._log.close()

    def last_words(self) -> list[str]:
        """Return the end of what the process said."""
        return list(self._log.tail)

    def _start(self) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            command(self._command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is ours to pass on, in order
        )
        self._reader = threading.Thread(
            target=self._read, args=(self._process,), name=f"log-{self.name}", daemon=True
        )
        self._reader.start()

    def _end_group(self) -> None:
        """Kill whatever is left of the process and its own children, and read the rest."""
        assert self._process is not None  # noqa: S101 (its callers checked)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._reader is not None:
            self._reader.join(timeout=5)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None  # noqa: S101 (opened as a pipe)
        with process.stdout:
            for line in process.stdout:
                self._log.write(line)
                self._heed(line.rstrip(), process)

    def _heed(self, line: str, process: "subprocess.Popen[str]") -> None:
        kind, _, text = line.partition(" ")
        if kind == "ready" and process is self._process:
            self.ready = self._was_ready = True
            self._say(f"{self.name} ready: {text}")
        elif kind in ("note", "ERROR", "CRITICAL"):
            self._say(f"{self.name}: {text}")


class _Log:
    """A log file of bounded size, and its last lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._size = 0
        self.tail: deque[str] = deque(maxlen=12)

    def write(self, line: str) -> None:
        """Append a line. A full disk loses lines, never the server."""
        self.tail.append(line.rstrip())
        try:
            if self._file is None or self._size > LARGEST_LOG:
                self._open()
            assert self._file is not None  # noqa: S101 (just opened)
            self._file.write(line)
            self._file.flush()
            self._size += len(line)
        except OSError:
            self._file = None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> None:
        self.close()
        size = self._path.stat().st_size if self._path.exists() else 0
        if size > LARGEST_LOG:
            os.replace(self._path, self._path.with_suffix(".log.1"))
            size = 0
        self._file = self._path.open("a", encoding="utf-8")
        self._size = size


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: one server at a time."""
    path = folder / "serve.lock"
    try:
        file = path.open("w")
    except OSError as error:
        raise SettingsError(f"cannot open {path}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"another process serves {folder}") from error
        yield


def _free_port(address: Address) -> int:
    try:
        return _bind(replace(address, port=0))
    except OSError as error:
        raise SettingsError(f"cannot listen at {address.host}: {error.strerror}") from error


def _bind(address: Address) -> int:
    """Bind to `address` for a moment and return its port. Raises OSError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        # as the listeners do, so that connections of an earlier run that linger are no hindrance
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address.host, address.port))
        port: int = probe.getsockname()[1]
        return port


def _bind_problem(address: Address) -> int | None:
    try:
        _bind(address)
    except OSError as error:
        return error.errno or errno.EADDRNOTAVAIL
    return None


def _how(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _print(line: str) -> None:
    print(line, flush=True)
