"""What the compiler's tests share: the digits model, and compiles that are made once."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
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
PROGRAM = "from edgec_compiler.cli import main; raise SystemExit(main())"
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


def edgec(*arguments: str, hash_seed: str | None = None, cwd: Path = ROOT) -> Finished:
    """Run `edgec` as a process of its own.

    It finds in the session's cache what other tests had compiled; with a `hash_seed` for Python it
    starts with nothing, and shows that the same bytes come out.
    """
    own = {} if hash_seed is None else {"PYTHONHASHSEED": hash_seed}
    with TemporaryDirectory() as nothing:
        if hash_seed is not None:
            own["XDG_CACHE_HOME"] = nothing
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=os.environ | own,
            timeout=550,
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
