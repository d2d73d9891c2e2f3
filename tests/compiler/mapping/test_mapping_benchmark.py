"""The benchmark of the Edge TPU's mapping tells right predictions from wrong ones."""

import json
import subprocess
import sys
from pathlib import Path

from tflite_kit import ROOT, Network, relu


def _pair(folder: Path, *, left: bool) -> None:
    """Write a model of two RELU and its compiled file, which leaves the second if `left`."""
    source, compiled = Network(), Network()
    shape = [1, 4, 4, 8]
    made = relu(source, relu(source, source.input(shape), "one", shape), "two", shape)
    (folder / "m.tflite").write_bytes(source.bytes(made))
    first = compiled.tensor("one" if left else "two", shape)
    made = compiled.op("edgetpu-custom-op", [compiled.input(shape)], first)
    made = relu(compiled, made, "two", shape) if left else made
    (folder / "m_edgetpu.tflite").write_bytes(compiled.bytes(made))


def test_pairs_are_compared_operator_by_operator(tmp_path: Path) -> None:
    for name, left in (("right", False), ("wrong", True)):
        (tmp_path / name).mkdir()
        _pair(tmp_path / name, left=left)
    (tmp_path / "alone_edgetpu.tflite").write_bytes(b"")

    script = str(ROOT / "benchmarks" / "edgetpu_mapping.py")
    done = subprocess.run(
        [sys.executable, script, str(tmp_path)], capture_output=True, text=True, check=True
    )

    right, wrong, total = map(json.loads, done.stdout.splitlines())
    assert (right["pair"], right["right"], right["wrong"]) == ("right/m", 2, [])
    assert (wrong["pair"], wrong["right"], wrong["wrong"]) == ("wrong/m", 1, ["RELU:1"])
    assert total == {"pairs": 2, "exact": 1, "operators": 4, "right": 3, "share": 0.75}
