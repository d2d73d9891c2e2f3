"""The wheel alone, in an empty environment: what a device gets."""

import os
import subprocess
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

FORBIDDEN = ("torch", "tensorflow", "onnx", "flask", "sqlalchemy")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its base dependencies only; the path of its bin folder."""
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder / "venv", with_pip=True)
    bin_folder = folder / "venv" / "bin"
    environment = dict(os.environ, PIP_CONSTRAINT=str(REPOSITORY / "constraints.txt"))
    subprocess.run(
        [bin_folder / "pip", "install", "--quiet", str(REPOSITORY)],
        check=True,
        env=environment,
        cwd=folder,
        timeout=550,
    )
    return bin_folder


def run(device: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [device / command[0], *command[1:]],
        capture_output=True,
        text=True,
        cwd=device,
        env={"PATH": os.environ["PATH"]},
        timeout=240,
    )


def test_bare_install_runs_the_agent(device: Path) -> None:
    answer = run(device, "edgec-agent", "--help")

    assert answer.returncode == 0, answer.stderr
    assert "enroll" in answer.stdout


@pytest.mark.parametrize("module", FORBIDDEN)
def test_bare_install_has_nothing_heavy(device: Path, module: str) -> None:
    answer = run(device, "python", "-c", f"import {module}")

    assert answer.returncode != 0
    assert "ModuleNotFoundError" in answer.stderr


def test_bare_install_names_the_missing_extra(device: Path) -> None:
    model = str(REPOSITORY / "models" / "digits" / "1.0.0.onnx")
    compiler = run(device, "edgec", "compile", model, "--target", "generic-x86_64")
    fleet = run(device, "edgec-fleet", "init", "--dir", "fleet")

    assert (compiler.returncode, fleet.returncode) == (3, 3), compiler.stderr + fleet.stderr
    assert "edgec[compiler]" in compiler.stderr
    assert "edgec[fleet]" in fleet.stderr


def test_bare_install_runs_a_bundle_of_each_runtime(device: Path) -> None:
    """The agent's tests' core: a child process proves golden samples with no extra installed."""
    script = REPOSITORY / "tests" / "e2e" / "bare_core.py"

    answer = run(device, "python", str(script), str(REPOSITORY))

    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["onnxruntime", "litert", "ok"]
