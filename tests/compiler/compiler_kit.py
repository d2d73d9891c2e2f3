"""What the compiler's tests share: the digits model, and compiles that are made once."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits"
TARGETS = (
    "rpi4",
    "generic-x86_64-tflite",
    "coral-edgetpu",
    "generic-x86_64",
    "generic-arm64",
    "jetson-orin-nano",
)
_PROGRAM = "from edgec_compiler.cli import main; raise SystemExit(main())"
DIGITS_OPTIONS = (
    *("--name", "digits", "--version", "1.0.0"),
    *("--calibration", str(DIGITS / "calibration.npz")),
    *("--evaluation", str(DIGITS / "evaluation.npz")),
    *("--preprocessing", str(DIGITS / "steps.toml")),
    *("--labels", str(DIGITS / "labels.txt")),
)


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What --json printed."""
        return [json.loads(line) for line in self.out.splitlines()]


def edgec(*arguments: str, hash_seed: str = "0", cwd: Path = ROOT) -> Finished:
    """Run `edgec` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        timeout=240,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True, slots=True)
class Compiled:
    """The digits model for all six targets."""

    folder: Path
    facts: dict[str, dict[str, Any]]  # by target: the line that --json printed


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("compiled") / "digits"
    wanted = [word for target in TARGETS for word in ("--target", target)]
    model = str(DIGITS / "1.0.0.onnx")
    done = edgec("compile", model, *wanted, *DIGITS_OPTIONS, "--out", str(folder), "--json")
    assert done.code == 0, done.err
    return Compiled(folder, {line["target"]: line for line in done.lines})
