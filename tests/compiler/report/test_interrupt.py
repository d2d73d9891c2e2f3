"""A compile that is interrupted leaves no process and nothing half-written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from compiler_kit import DIGITS, DIGITS_OPTIONS, PROGRAM, ROOT

_MARK = "EDGEC_TEST_INTERRUPTED"


def marked(mark: str) -> list[int]:
    """Return the processes that inherited the mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{_MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue  # it has ended, or is not ours
    return found


@pytest.mark.parametrize(
    ("step", "sent", "code"), [("import", signal.SIGTERM, 143), ("convert", signal.SIGINT, 130)]
)
def test_an_interrupted_compile_leaves_nothing(
    step: str, sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    mark = f"{os.getpid()}-{step}"
    targets = ("--target", "rpi4", "--target", "generic-x86_64")
    command = [
        *(sys.executable, "-c", PROGRAM, "compile", str(DIGITS / "1.0.0.onnx"), *targets),
        *(*DIGITS_OPTIONS, "--no-cache", "--out", str(tmp_path / "out")),
    ]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, _MARK: mark}
    ) as run:
        assert run.stderr is not None
        assert any(step in line for line in run.stderr)
        run.send_signal(sent)
        said = run.stderr.read()
        assert run.wait(240) == code

    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    end = time.monotonic() + 120
    while marked(mark) and time.monotonic() < end:
        time.sleep(0.1)
    assert marked(mark) == []
