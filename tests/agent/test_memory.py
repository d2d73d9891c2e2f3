import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgec_agent import memory

HERE = Path(__file__).parent


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_ten_swaps_of_a_large_model_leave_no_memory_behind():
    pytest.importorskip("onnx")  # to make the model; the agent needs none

    ran = subprocess.run(
        [sys.executable, HERE / "swap_memory.py"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    third, last = found["resident"][2], found["resident"][-1]
    assert last - third < found["model"] / 2  # 32 MB without giving it back


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_system_says_how_much_memory_there_is():
    assert 1 << 20 < memory.resident_bytes() < 1 << 36
    assert memory.available_bytes() > 1 << 20
