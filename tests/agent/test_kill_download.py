"""kill -9 at random instants of a download over the network: what came is never fetched again."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from downloading import DATA, DIGEST, SIZE
from fleet_world import BLOCK, write_identity
from link_proxy import Line, Proxy

from edgec_bundle.store import FolderBlobStore

SCRIPT = Path(__file__).with_name("kill_download.py")
RATE = 250_000  # bytes a second: the blob takes more than a second


def start(folder, proxies, way):
    ports = [str(proxy.port) for proxy in proxies]
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), *ports, DIGEST, str(SIZE), str(BLOCK), way],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": f"{SCRIPT.parent}:{os.environ.get('PYTHONPATH', '')}"},
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
        out, err = process.communicate(timeout=120)
        assert out.endswith("done\n"), err
        assert FolderBlobStore(folder / "blobs").read(DIGEST) == DATA
    finally:
        for proxy in proxies:
            proxy.close()
    # A kill costs what was under way: a window over MQTT, and what lay in the kernel's buffers.
    lost = line.moved[1] - (whole + 1) * SIZE
    assert lost < (kills + 1) * (4 * BLOCK + 40_000)
    return whole


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
