"""Pieces of a compile run side by side: crashes, order, measuring alone, and the end of a run."""

import ctypes
import faulthandler
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgec_compiler.side_by_side import Ended, Here, Piece, Step, run_side_by_side


def outcomes(pieces: list[Piece], jobs: int = 2) -> dict[str, Ended]:
    return {e.name: e for e in run_side_by_side(pieces, jobs) if isinstance(e, Ended)}


def test_every_piece_returns_its_value_and_tells_its_steps() -> None:
    def work(here: Here) -> int:
        here.step("counting")
        return 7

    events = list(run_side_by_side([Piece("a", work), Piece("b", work)], 2))

    assert sorted(e.name for e in events if isinstance(e, Step) and e.step == "counting") == [
        "a",
        "b",
    ]
    assert [e.value for e in events if isinstance(e, Ended)] == [7, 7]


def test_a_crash_in_a_native_library_takes_no_other_piece_down() -> None:
    def crash(here: Here) -> None:
        faulthandler.disable()  # pytest's, which would tell of it as its own crash
        here.step("quantise")
        os.write(2, b"kernel panic in conv2d\n")
        ctypes.string_at(0)

    found = outcomes([Piece("bad", crash), Piece("good", lambda here: "made")])

    assert found["good"].value == "made"
    death = found["bad"].death
    assert death is not None
    assert death.startswith("was killed by SIGSEGV at step 'quantise'")
    assert "kernel panic in conv2d" in death


def test_an_error_that_nobody_expected_is_told_with_its_traceback() -> None:
    def fail(here: Here) -> None:
        raise LookupError("no such layer")

    death = outcomes([Piece("a", fail)])["a"].death

    assert death is not None
    assert "ended with status 1" in death
    assert "LookupError: no such layer" in death


def logged(folder: Path, name: str, body: Callable[[Here], None]) -> Piece:
    """Return a piece that notes when it begins and ends."""

    def work(here: Here) -> None:
        with (folder / "log").open("a") as log:
            log.write(f"+{name}\n")
        body(here)
        with (folder / "log").open("a") as log:
            log.write(f"-{name}\n")

    return Piece(name, work)


def test_no_more_pieces_work_at_a_time_than_asked_for(tmp_path: Path) -> None:
    pieces = [logged(tmp_path, str(n), lambda here: time.sleep(0.05)) for n in range(5)]

    list(run_side_by_side(pieces, 2))

    working, most = 0, 0
    for line in (tmp_path / "log").read_text().split():
        working += 1 if line.startswith("+") else -1
        most = max(most, working)
    assert most <= 2


def test_pieces_really_run_side_by_side(tmp_path: Path) -> None:
    def meet(name: str, other: str) -> Piece:
        def work(here: Here) -> bool:
            (tmp_path / name).touch()
            end = time.monotonic() + 60
            while not (tmp_path / other).exists() and time.monotonic() < end:
                time.sleep(0.01)
            return (tmp_path / other).exists()

        return Piece(name, work)

    found = outcomes([meet("a", "b"), meet("b", "a")], jobs=2)

    assert found["a"].value is True is found["b"].value


def test_a_piece_that_measures_is_alone_and_keeps_nobody_waiting_for_a_start(
    tmp_path: Path,
) -> None:
    def measure(here: Here) -> None:
        with here.alone():
            logged(tmp_path, "measure", lambda here: time.sleep(0.05)).work(here)

    def work(here: Here) -> None:
        time.sleep(0.05)

    first = [Piece("m1", measure), Piece("m2", measure)]
    list(run_side_by_side([*first, *(logged(tmp_path, str(n), work) for n in range(3))], 1))

    lines = (tmp_path / "log").read_text().split()
    assert lines[-4:] == ["+measure", "-measure"] * 2
    assert len(lines) == 10


def test_closing_the_run_ends_every_piece(tmp_path: Path) -> None:
    def wait(here: Here) -> None:
        here.step(str(os.getpid()))
        time.sleep(60)

    events: Any = run_side_by_side([Piece("a", wait), Piece("b", wait)], 2)
    pids = [int(next(events).step) for _ in range(2)]
    events.close()

    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
