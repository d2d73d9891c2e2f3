"""End to end: a second, equal `edgec compile` writes the same bundle without compiling."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from compiler_kit import Finished, edgec
from onnx import TensorProto, helper


def _model(file: Path, scale: float) -> None:
    (file.parent / "w.bin").unlink(missing_ok=True)  # onnx would append to it
    weights = (np.arange(12, dtype=np.float32).reshape(4, 3) - 5) * scale
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, file, save_as_external_data=True, location="w.bin", size_threshold=0)


def _words(folder: Path, out: str, *more: str) -> tuple[str, ...]:
    return (
        *("compile", str(folder / "m.onnx"), "--target", "generic-x86_64", "--precision", "fp32"),
        *("--cache", str(folder / "cache"), "--out", str(folder / out), "--json", *more),
    )


def _compile(folder: Path, out: str, *more: str) -> Finished:
    return edgec(*_words(folder, out, *more))


def _files(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_an_equal_run_is_cached_and_a_run_with_other_external_data_is_not(tmp_path: Path) -> None:
    _model(tmp_path / "m.onnx", 1.0)
    first = _compile(tmp_path, "one", "--lock", str(tmp_path / "lock"))
    again = _compile(tmp_path, "two", "--locked", str(tmp_path / "lock"))
    same_model = (tmp_path / "m.onnx").read_bytes()
    _model(tmp_path / "m.onnx", 2.0)
    assert (tmp_path / "m.onnx").read_bytes() == same_model
    other = _compile(tmp_path, "three")

    assert [one.lines[0]["cached"] for one in (first, again, other)] == [False, True, False]
    assert _files(tmp_path / "one") == _files(tmp_path / "two")
    assert other.lines[0]["sha256"] != first.lines[0]["sha256"]
    ours = {"bundle", "seconds", "cached"}
    told = [{k: v for k, v in one.lines[0].items() if k not in ours} for one in (first, again)]
    assert told[0] == told[1]
    assert again.lines[0]["seconds"] < first.lines[0]["seconds"]

    locked = _compile(tmp_path, "four", "--locked", str(tmp_path / "lock"))
    assert locked.code == 1
    assert "model: locked" in locked.err


def test_what_is_cached_is_had_without_torch_and_without_another_process(tmp_path: Path) -> None:
    _model(tmp_path / "m.onnx", 1.0)
    _compile(tmp_path, "one")
    program = (
        "import os, subprocess, sys\n"
        "from edgec_compiler.cli import main\n"
        "subprocess.Popen = os.fork = None\n"
        f"assert main({list(_words(tmp_path, 'two'))!r}) == 0\n"
        "assert 'torch' not in sys.modules\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cached"]


def test_a_changed_option_reuses_float_forms_and_ranges_and_makes_the_same_bytes(
    tmp_path: Path,
) -> None:
    _model(tmp_path / "m.onnx", 1.0)
    inputs = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.savez(tmp_path / "c.npz", inputs=inputs)
    words = ("compile", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "c.npz"))
    words += ("--target", "rpi4", "--target", "generic-arm64")
    cache = ("--cache", str(tmp_path / "cache"))
    first = edgec(*words, *cache, "--out", str(tmp_path / "one"))

    reused = edgec(*words, *cache, "--version", "0.2.0", "--out", str(tmp_path / "two"))
    fresh = edgec(*words, "--no-cache", "--version", "0.2.0", "--out", str(tmp_path / "three"))

    assert first.code == reused.code == fresh.code == 0, first.err
    for step in ("graph passes", "convert to ONNX", "convert to TFLite", "calibrate"):
        assert step in first.err
        assert step in fresh.err
        assert step not in reused.err
    pinned = [
        {
            name: data
            for name, data in _files(tmp_path / out).items()
            if not name.endswith(("measurements.json", "report.html"))
        }
        for out in ("two", "three")
    ]
    assert pinned[0] == pinned[1]


def test_of_several_targets_only_those_not_made_before_are_made(tmp_path: Path) -> None:
    _model(tmp_path / "m.onnx", 1.0)
    one = _compile(tmp_path, "one")
    both = _compile(tmp_path, "both", "--target", "generic-arm64")
    damaged = max((tmp_path / "cache").glob("??/*"), key=lambda file: file.stat().st_size)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    none = _compile(tmp_path, "again", "--no-cache")

    assert {line["target"]: line["cached"] for line in both.lines} == {
        "generic-x86_64": True,
        "generic-arm64": False,
    }
    assert (tmp_path / "both" / "generic-x86_64" / "manifest.json").read_bytes() == (
        tmp_path / "one" / "manifest.json"
    ).read_bytes()
    assert (tmp_path / "both" / "generic-arm64" / "manifest.json").is_file()
    assert none.code == 2  # --cache and --no-cache
    assert one.code == both.code == 0
