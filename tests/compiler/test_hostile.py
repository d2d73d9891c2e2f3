"""Damaged and hostile files: inspecting them ends in facts or in one refusal, nothing else."""

import os
from pathlib import Path

import pytest
from compiler_kit import DIGITS, Compiled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgec_bundle.archive import open_bundle
from edgec_compiler.errors import CompilerError, UsageError
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.inspecting import inspect_model

DAMAGE = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=20)


def _damaged(payload: bytes, damage: list[tuple[float, int]], keep: float) -> bytes:
    changed = bytearray(payload[: int(len(payload) * keep)])
    for where, value in damage:
        if changed:
            # half of the changes go to the head, where the structure is
            at = int(where * 2 * len(changed)) if where < 0.5 else int((where - 0.5) * 2000)
            changed[at % len(changed)] = value
    return bytes(changed)


def _inspect(file: Path) -> None:
    try:
        kind, path, factory = kind_of(str(file))
        facts = inspect_model(kind, path, factory)
    except CompilerError:
        return
    assert facts["kind"] == "model"


def test_a_pipe_or_a_device_is_refused_instead_of_read_for_ever(tmp_path: Path) -> None:
    pipe = tmp_path / "model.onnx"
    os.mkfifo(pipe)

    for endless in (pipe, Path("/dev/zero")):
        with pytest.raises(UsageError, match="regular file"):
            kind_of(str(endless))


@pytest.mark.parametrize("name", ["1.0.0.onnx", "1.0.0.pt2"])
@given(damage=DAMAGE, keep=st.floats(0.01, 1))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_damaged_model_is_inspected_or_refused(
    name: str, damage: list[tuple[float, int]], keep: float, tmp_path: Path
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(_damaged((DIGITS / name).read_bytes(), damage, keep))

    _inspect(file)


@given(damage=DAMAGE, keep=st.floats(0.01, 1))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_damaged_tflite_file_is_inspected_or_refused(
    compiled: Compiled, damage: list[tuple[float, int]], keep: float, tmp_path: Path
) -> None:
    file = tmp_path / "model.tflite"
    payload = open_bundle(compiled.folder / "rpi4").read("model")
    file.write_bytes(_damaged(payload, damage, keep))

    _inspect(file)
