"""kill -9 at random instants of a download over the network: what came is never fetched again."""

import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from downloading import DATA, DIGEST, SIZE
from fleet_world import BLOCK, TENANT, until, write_identity
from link_proxy import Line, Proxy

from edgec_bundle.messages import Topics
from edgec_bundle.store import FolderBlobStore

SCRIPT = Path(__file__).with_name("kill_download.py")
RATE = 250_000  # bytes a second: the blob takes more than a second


def start(folder, proxies, way):
    ports = [str(proxy.port) for proxy in proxies]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *ports, DIGEST, str(SIZE), str(BLOCK), way],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )


def here(folder):
    """Return the blocks that are on disk, or None if the blob is whole."""
    store = FolderBlobStore(folder / "blobs")
    if store.has(DIGEST):
        return None
    partial = store.begin(DIGEST, SIZE, BLOCK)
    missing = set(partial.missing())
    partial.close()
    return set(range(21)) - missing


def kill_often(folder, fleet, broker, blob_server, gateway, way, kills, seed):
    """Kill downloads at random instants, `kills` times in all; return how many blobs were whole."""
    chance, whole, present = random.Random(seed), 0, set()
    line = Line(RATE)
    proxies = (
        Proxy(("127.0.0.1", broker.port), line),
        Proxy(("127.0.0.1", blob_server.server.server_address[1]), line),
    )
    fleet.blobs[DIGEST] = DATA
    try:
        for _ in range(kills):
            process = start(folder, proxies, way)
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            asked = len(gateway.messages), len(blob_server.requests)
            time.sleep(chance.uniform(0, 0.7))
            process.kill()
            process.communicate()
            wait_for_the_last_word(gateway, proxies)
            again = asked_for(gateway.messages[asked[0] :], blob_server.requests[asked[1] :])
            assert not again & present  # nothing that was here
            found = here(folder)
            if found is None:
                store = FolderBlobStore(folder / "blobs")
                assert store.read(DIGEST) == DATA
                store.delete(DIGEST)
                whole, present = whole + 1, set()
                continue
            assert present <= found  # progress is kept
            present = found
        process = start(folder, proxies, way)
        out, err = process.communicate(timeout=240)
        assert out.endswith("done\n"), err
        assert FolderBlobStore(folder / "blobs").read(DIGEST) == DATA
    finally:
        for proxy in proxies:
            proxy.close()
    return whole


def wait_for_the_last_word(gateway, proxies):
    """Return when all that a killed device asked for has reached the servers."""
    until(lambda: not any(proxy.open_connections() for proxy in proxies))
    answering = "process_request_thread"
    until(lambda: not any(answering in thread.name for thread in threading.enumerate()))
    marker = f"marker-{len(gateway.messages)}"
    gateway.client.publish(Topics(TENANT, marker).up("hello"), b"no hello", qos=1)
    until(lambda: (marker, "broken") in [message[:2] for message in list(gateway.messages)])


def asked_for(messages, requests):
    """Return the blocks that the device asked for, over either way."""
    found = {block for _, kind, one in messages if kind == "request" for block in one.blocks()}
    for _, wanted in requests:
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        # A range may begin inside a block; then that block was not here.
        found |= set(range(int(first) // BLOCK, int(last) // BLOCK + 1))
    return found


@pytest.fixture
def device(tmp_path, certificates, fleet):
    return write_identity(tmp_path / "device", certificates, fleet.root)


@pytest.mark.parametrize("way", ["mqtt", "http"])
def test_six_kills_of_a_download(device, fleet, broker, blob_server, gateway, way):
    kill_often(device, fleet, broker, blob_server, gateway, way, 6, seed=1)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("way", ["mqtt", "http"])
def test_fifty_kills_of_a_download(device, fleet, broker, blob_server, gateway, way, seed):
    whole = kill_often(device, fleet, broker, blob_server, gateway, way, 50, seed)

    assert whole > 0
