"""One model through all three programs, as separate processes: the whole walk on both brokers."""

import importlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[2]
DIGITS = REPOSITORY / "models" / "digits"
BIN = Path(sys.executable).parent
CANARY, SECOND = "agent-1", "agent-2"
ONNX, TFLITE = "generic-x86_64", "generic-x86_64-tflite"

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    """The demo's own building blocks: `make demo` is what these tests take apart."""
    folder = str(REPOSITORY / "scripts" / "demo")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("story")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def workshop(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield demo.Workshop(tmp_path_factory.mktemp("bundles"))
    demo.end_calls()


def find_mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


BROKERS = ("mosquitto", "amqtt") if find_mosquitto() else ("amqtt",)


@pytest.fixture
def story(
    request: pytest.FixtureRequest, demo: Any, workshop: Any, tmp_path: Path
) -> Iterator[Any]:
    """A fleet with two agents, both runtimes, digits 1.0.0 committed and under load."""
    broker = getattr(request, "param", BROKERS[0])
    story = demo.Story(tmp_path, print, None, broker=broker)
    try:
        story.set_up(workshop)
        yield story
    finally:
        story.stop()


@pytest.mark.parametrize("story", BROKERS, indirect=True)
def test_a_release_goes_to_the_fleet_as_a_diff_and_a_bad_one_does_not(story: Any) -> None:
    story.ship_a_better_release()
    story.refuse_a_bad_release()
    story.finish()

    assert story.facts.failed == 0
    assert story.facts.served["digits 1.1.0"] > 0
    assert 0 < story.facts.transferred < story.facts.full
    assert "acceptance" in story.facts.refusals[0][1]
    assert not any("bad" in version for version in story.facts.served)


def test_agents_serve_and_boot_with_the_server_gone(story: Any) -> None:
    """Stops the whole server, then kills an agent and starts it again with no network."""
    story.fleet.stop_server()
    device = story.fleet.devices[0]

    answers_before = infer(device.port)
    device.program.kill()
    again = story.fleet.start_agent(device)
    story.fleet.devices[0] = again
    again.program.wait_for(again.is_ready, 120)
    answers_after = infer(again.port)

    assert answers_before == answers_after
    status = json.loads(
        subprocess.run(
            [BIN / "edgec-agent", "status", "--dir", device.folder, "--json"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
    )
    assert status["models"]["digits"]["active"]["version"] == "1.0.0"


def test_a_revoked_device_is_out_and_serves_on(story: Any) -> None:
    story.api.post(f"/v1/devices/{SECOND}/revoke", {"reason": "stolen"})
    deadline = time.monotonic() + 240
    while story.api.device(SECOND)["online"] and time.monotonic() < deadline:
        time.sleep(0.2)

    story.publish("digits", "1.1.0")
    rollout = story.roll_out("digits", "1.1.0", [{"name": "all", "percent": 100}])
    done = story.committed(rollout)

    told = [update["device"] for update in done["updates"]]
    assert SECOND not in told
    assert CANARY in told
    assert infer(story.fleet.devices[1].port)["model_version"] == "1.0.0"


def infer(port: int) -> Any:
    """Return the agent's JSON answer to the first evaluation image."""
    import urllib.request

    images = np.load(DIGITS / "evaluation.npz")["inputs"][:1]
    body = {
        "inputs": [
            {
                "name": "image",
                "shape": list(images.shape),
                "datatype": "UINT8",
                "data": images.ravel().tolist(),
            }
        ]
    }
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/digits/infer", json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        reply = json.loads(answer.read())
    reply.pop("id", None)
    return reply
