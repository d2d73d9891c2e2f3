"""Runs pieces of one compile side by side, each in a process forked from this one.

Why a fork: what the pieces share (the imported module, its graph, float forms, ranges, samples) is
there at once, in shared pages, whatever type it has; a piece that crashes in a native library takes
nobody with it; and the kernel gives back all of its memory. Threads would share a crash and one
interpreter lock; fresh processes would pay the imports again and could not be given a torch graph.
A fork is sound while its parent has no thread at work, so whatever starts threads of its own (the
converters) runs in a piece too, and hands its result back as bytes.
"""

import gc
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import IO, Any

import torch

from edgec_compiler.deaths import how_it_ended, last_lines
from edgec_compiler.memory import available_bytes, own_bytes

_CONTEXT = multiprocessing.get_context("fork")
_END_S = 2.0  # that a piece has for its own tidying up before it is killed


class Here:
    """What a piece sees of the run: it tells its steps, and may ask to be alone."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection

    def step(self, text: str) -> None:
        """Tell what begins now."""
        self._connection.send(("step", text))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other piece is at work, and keep it so: for measuring."""
        self._connection.send(("wants alone", None))
        self._connection.recv()
        yield
        self._connection.send(("alone no more", None))


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of work; what `work` returns must be picklable."""

    name: str
    work: Callable[[Here], Any]


@dataclass(frozen=True, slots=True)
class Step:
    """A piece begins a step."""

    name: str
    step: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A piece has ended: with a value, or with an account of how it died."""

    name: str
    value: Any = None
    death: str | None = None


@dataclass(slots=True)
class _Child:
    piece: Piece
    process: ForkProcess
    log: IO[bytes]
    state: str = "working"  # "working" | "waits" | "alone" | "ended"
    step: str = "start"
    ended: Ended | None = None


@dataclass(slots=True)
class _Children:
    """The pieces that have begun and not ended, by their connection, in the order of beginning."""

    running: "dict[Connection[Any, Any], _Child]" = field(default_factory=dict)

    def count(self, state: str) -> int:
        return sum(child.state == state for child in self.running.values())

    def start(self, piece: Piece) -> None:
        ours, theirs = _CONTEXT.Pipe()
        log = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the piece has ended
        process = _CONTEXT.Process(target=_serve, args=(piece, theirs, log.fileno()))
        process.start()
        theirs.close()
        self.running[ours] = _Child(piece, process, log)

    def let_one_be_alone(self) -> None:
        """If nobody works, let the first of those who wait go on."""
        if self.count("working") or self.count("alone"):
            return
        for connection, child in self.running.items():
            if child.state == "waits":
                child.state = "alone"
                connection.send(None)
                return

    def hear(self, connection: "Connection[Any, Any]") -> Step | Ended | None:
        """Take one message of a piece, or its end."""
        child = self.running[connection]
        try:
            kind, content = connection.recv()
        except (EOFError, ConnectionResetError):
            return self._end(connection)
        match kind:
            case "step":
                child.step = content
                return Step(child.piece.name, content)
            case "wants alone":
                child.state = "waits"
            case "alone no more":
                child.state = "working"
            case "value":
                child.ended = Ended(child.piece.name, content)
        return None

    def _end(self, connection: "Connection[Any, Any]") -> Ended:
        child = self.running.pop(connection)
        connection.close()
        child.process.join()
        with child.log as log:
            if child.ended is not None:
                return child.ended
            said = " | ".join(last_lines(log))
        death = f"{how_it_ended(child.process.exitcode or 0)} at step '{child.step}'"
        return Ended(child.piece.name, death=death + (f"; it last said: {said}" if said else ""))

    def stop(self) -> None:
        """End all pieces: asked first, so that they tidy up and end what they started."""
        for child in self.running.values():
            child.process.terminate()
        for connection, child in self.running.items():
            child.process.join(_END_S)
            child.process.kill()
            child.process.join()
            connection.close()
            child.log.close()
        self.running.clear()


def run_side_by_side(pieces: Sequence[Piece], jobs: int) -> Iterator[Step | Ended]:
    """Yield what happens, until each of `pieces` has ended; `jobs` of them work at a time.

    A piece that waits to be alone does not count as one at work, so that others go on; it is let
    when none is left to begin. Closing the generator ends the pieces.
    """
    waiting, children = deque(pieces), _Children()
    gc.freeze()  # a search for garbage would write to every page, and so copy what is shared
    try:
        while waiting or children.running:
            while waiting and children.count("working") < jobs and not children.count("alone"):
                children.start(waiting.popleft())
            children.let_one_be_alone()
            for connection in wait(list(children.running)):
                happened = children.hear(connection)  # type: ignore[arg-type]
                if happened is not None:
                    yield happened
    finally:
        children.stop()
        gc.unfreeze()


def _serve(piece: Piece, connection: "Connection[Any, Any]", log: int) -> None:
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = open(log, "w", buffering=1, closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)  # a pool of threads does not survive a fork: its work is never done
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # our parent decides, by SIGTERM
    connection.send(("value", piece.work(Here(connection))))


def jobs_for(wanted: int | None) -> int:
    """Return how many pieces may work at a time: `wanted`, or as many as cores and memory allow.

    A piece is taken to need as much memory again as this process has now.
    """
    if wanted is not None:
        return wanted
    cores, available, mine = len(os.sched_getaffinity(0)), available_bytes(), own_bytes()
    if available is None or not mine:
        return cores
    return max(1, min(cores, available // mine))
