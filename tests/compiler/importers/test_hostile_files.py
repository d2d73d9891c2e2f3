"""Damaged files of every format: one message and exit code 2, never a traceback or a hang."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from compiler_kit import DIGITS, ROOT, edgec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_hostile import damaged
from onnx import TensorProto, helper

from edgec_compiler.cli import main

TFLITE = ROOT / "tests" / "runtime" / "fixtures" / "quadrants_int8.tflite"
OPENER = Path(__file__).with_name("make_hostile.py")
CHILD_TIMEOUT_S = 900


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small sound file of each format that torch's and ONNX's own tools write."""
    folder = tmp_path_factory.mktemp("sound")
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])
    nodes = [helper.make_node("Mul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4], [1, 2, 3, 4])
    graph = helper.make_graph(nodes, "g", [value], [made], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    program = torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.ones(1, 2),))
    torch.export.save(program, folder / "m.pt2")
    assert isinstance(model, onnx.ModelProto)
    return {
        "onnx": model.SerializeToString(),
        "pt2": (folder / "m.pt2").read_bytes(),
        "tflite": TFLITE.read_bytes(),
    }


def _open_all(files: list[Path]) -> dict[str, dict[str, Any]]:
    """Return how opening each file ended; a child that crashes is started again behind the file."""
    found: dict[str, dict[str, Any]] = {}
    todo = [str(file) for file in files]
    while todo:
        done = subprocess.run(
            [sys.executable, str(OPENER), *todo],
            capture_output=True,
            text=True,
            timeout=CHILD_TIMEOUT_S,
            check=False,
        )
        told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        found |= {one["file"]: one for one in told}
        todo = [file for file in todo if file not in found]
        if todo:
            assert done.returncode < 0, done.stderr  # a signal, not a traceback
            found[todo[0]] = {"code": "crash", "said": ""}
            todo = todo[1:]
    return found


def _check(payloads: dict[str, bytes], folder: Path, count: int, seed: int) -> None:
    files = []
    for suffix, payload in payloads.items():
        for number, copy in enumerate(damaged(payload, seed, count)):
            files.append(folder / f"{number}.{suffix}")
            files[-1].write_bytes(copy)

    found = _open_all(files)

    for file in files:
        one = found[str(file)]
        if one["code"] == "crash":  # the command's parent process turns it into a message
            done = edgec("compile", str(file), "--target", "rpi4", "--out", str(folder / "out"))
            assert done.code == 2, done.err
            assert "a damaged or hostile file" in done.err
        elif one["code"] == 1:  # sound, with an operator of another name
            assert one["said"].startswith("operator "), one
        else:
            assert one["code"] in (0, 2), one
            assert "\n" not in one["said"].strip(), one


def test_damaged_files_of_every_format_are_refused_in_one_line(
    sound: dict[str, bytes], tmp_path: Path
) -> None:
    _check(sound, tmp_path, count=24, seed=0)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_damaged_files_are_refused_in_one_line(
    sound: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    real = {"onnx": DIGITS / "1.0.0.onnx", "pt2": DIGITS / "1.0.0.pt2"}
    more = {f"large.{suffix}": file.read_bytes() for suffix, file in real.items()}
    _check(sound | more, tmp_path, count=100, seed=seed)


@pytest.mark.parametrize("suffix", ["onnx", "pt2", "tflite"])
def test_inspecting_damaged_files_never_fails_otherwise(
    suffix: str,
    sound: dict[str, bytes],
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path_factory.mktemp("inspect") / f"m.{suffix}"
    whole = sound[suffix]

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(
        st.integers(0, len(whole)),
        st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=6),
    )
    def check(size: int, changes: list[tuple[int, int]]) -> None:
        copy = bytearray(whole)
        for at, value in changes:
            copy[at] = value
        file.write_bytes(bytes(copy[:size] if size else copy))
        assert main(["inspect", str(file)]) in (0, 2)

    check()
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "payload", "said"),
    [
        (
            "frozen.pb",
            b"\n\x1d\n\x01x\x12\x0bPlaceholder*\x0b\n\x05dtype\x12\x020\x01",
            "TensorFlow 1",
        ),
        ("graph", b"\n\x1d\n\x01x\x12\x0bPlaceholder*\x0b\n\x05dtype\x12\x020\x01", "TensorFlow 1"),
        ("graph.pbtxt", b'node {\n  name: "x"\n  op: "Placeholder"\n}\n', "TensorFlow 1"),
        ("saved_model.pb", b"\x08\x01\x12\x04abcd", "name its folder"),
        ("m.onnx", b"\x08\x08\x3a\x00", "without operators"),
        ("m.tflite", b"\x1c\x00\x00\x00TFL3" + b"\xff" * 40, "a damaged TFLite file"),
    ],
)
def test_each_refusal_says_why_and_the_command_ends_with_2(
    name: str, payload: bytes, said: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(payload)

    done = edgec("compile", str(file), "--target", "rpi4", "--out", str(tmp_path / "out"))

    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_model_over_the_targets_memory_is_refused(tmp_path: Path) -> None:
    profiles = ROOT / "hardware_profiles" / "edgec_hardware_profiles" / "profiles"
    text = (profiles / "generic-x86_64.toml").read_text()
    text = text.replace('name = "generic-x86_64"', 'name = "tiny"')
    text = text.replace("[host]", "[memory]\ndevice_bytes = 1000\n\n[host]")
    text = text.replace("[sources]", '[sources]\n"memory.device_bytes" = "this test"')
    (tmp_path / "tiny.toml").write_text(text)

    done = edgec(
        *("compile", str(DIGITS / "1.0.0.onnx"), "--target", str(tmp_path / "tiny.toml")),
        *("--precision", "fp32", "--out", str(tmp_path / "out")),
    )

    assert done.code == 1
    assert "1000 bytes of memory" in done.err
    assert not (tmp_path / "out").exists()
