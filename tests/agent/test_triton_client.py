"""The independent client: tritonclient[http], in an environment of its own, unchanged."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from doubles import RUNTIMES, SCORES, X, load

from edgec_agent.server import serve

HERE = Path(__file__).parent
CHECKS = 18 + 8

HALF = {
    "model": "half",
    "x": replace(X, dtype="float16"),
    "y": replace(SCORES, dtype="float16"),
    "preprocessing": [{"op": "cast", "dtype": "float32"}],
    "postprocessing": [{"op": "cast", "dtype": "float16"}],
}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_tritonclient_works_unchanged(host, triton_python, runtime):
    load(host, "1.2.3", runtime=runtime, offset=1.5)
    load(host, **HALF, runtime=runtime)
    server = serve(host, "127.0.0.1:0")

    ran = subprocess.run(
        [triton_python, HERE / "triton_calls.py", server.address, "double", "1.5"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    server.close()

    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout)
    assert {name: wrong for name, wrong in results.items() if wrong} == {}
    assert len(results) == CHECKS
