"""A minute of the fuzzer, in the long suite."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.full
def test_the_fuzzer_finds_nothing() -> None:
    script = Path(__file__).parent / "fuzz.py"

    done = subprocess.run([sys.executable, script, "60"], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
