"""The reference of the inference API: its examples run, its lists are complete."""

import io
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from doubles import X, Y, bundle
from PIL import Image

from edgec_agent.http1 import REASONS
from edgec_agent.metrics import HttpCounts, render
from edgec_agent.server import serve

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/reference/inference-api.md").read_text()


@pytest.fixture
def address(host):
    """Where the digits of the examples are served."""
    manifest = replace(
        bundle("1.0.0", model="digits").manifest,
        inputs=(replace(X, name="image", dtype="uint8", shape=(-1, 32, 32, 1)),),
        outputs=(replace(Y, name="probabilities", shape=(-1, 10), meaning="probabilities"),),
        preprocessing=(
            {"op": "decode_image", "mode": "L"},
            {"op": "scale", "mean": 127.5, "std": 127.5},
            {"op": "layout", "from": "NHWC", "to": "NCHW"},
        ),
        postprocessing=({"op": "softmax"},),
        files=bundle().manifest.files[:1],
    )
    model = (ROOT / "models/digits/1.0.0.onnx").read_bytes()
    host.activate("digits", host.load(manifest, {"model": model}.__getitem__))
    server = serve(host, "127.0.0.1:0")
    yield server.address
    server.close()


def examples(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_python_example_runs(address):
    (own,) = [code for code in examples("python") if "edgec_agent" in code]

    ran = subprocess.run(
        [sys.executable, "-c", own.replace("127.0.0.1:9000", address)],
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"1\.0\.0 \[\d\]\n", ran.stdout)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_examples_run(address, tmp_path):
    sink = io.BytesIO()
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(sink, "PNG")
    (tmp_path / "seven.png").write_bytes(sink.getvalue())
    (script,) = examples("sh")

    for line in script.replace("127.0.0.1:9000", address).splitlines():
        ran = subprocess.run(
            ["sh", "-c", line + " --fail --silent --show-error"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert ran.returncode == 0, ran.stderr
        assert "probabilities" in ran.stdout


def test_the_triton_example_runs(address, triton_python):
    (theirs,) = [code for code in examples("python") if "tritonclient" in code]

    ran = subprocess.run(
        [triton_python, "-c", theirs.replace("127.0.0.1:9000", address)],
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert ran.returncode == 0, ran.stderr
    assert re.fullmatch(r"\[\d\]\n", ran.stdout)


def test_every_metric_and_status_is_listed(address, host):
    host.infer("digits", {"image": np.zeros((1, 32, 32, 1), np.uint8)})
    tap = host.start_tap("digits", host.active("digits"))
    found = re.findall(r"# TYPE (\w+) ", render(host, HttpCounts()).decode())
    tap.stop()

    assert len(found) >= 11
    assert [name for name in found if f"`{name}`" not in TEXT] == []
    assert [code for code in REASONS if code >= 400 and str(code) not in TEXT] == []
