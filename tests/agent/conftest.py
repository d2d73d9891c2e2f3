"""Makes the modules beside the tests importable (pytest imports tests by importlib)."""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from doubles import LIMITS, load
from fleet_world import (
    MOSQUITTO,
    BlobServer,
    Broker,
    Certificates,
    Fleet,
    Gateway,
    Keys,
    write_identity,
)
from wire import Wire

from edgec_agent.host import ModelHost
from edgec_agent.server import serve

SCRIPT = Path(__file__).parents[2] / "scripts" / "triton_env.sh"


@pytest.fixture
def host():
    host = ModelHost(wait_s=120.0)
    yield host
    host.close()


@pytest.fixture
def server(host):
    """A server of one model, "double", whose limits are low."""
    load(host)
    server = serve(host, "127.0.0.1:0", limits=LIMITS)
    yield server
    server.close()


@pytest.fixture
def wire(server):
    with Wire(server.address) as wire:
        yield wire


@pytest.fixture(scope="session")
def triton_python():
    """The Python of .venv-triton, made on demand."""
    environment = {**os.environ, "PYTHON": sys.executable}
    made = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, timeout=550)
    if made.returncode == 3:
        pytest.skip(f"tritonclient cannot be installed here: {made.stderr.strip()[-300:]}")
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


@pytest.fixture(scope="session")
def keys():
    """The fleet's signers."""
    return Keys()


@pytest.fixture
def fleet(keys):
    """A fleet that has released nothing yet."""
    return Fleet(keys)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def blob_server(certificates, fleet):
    server = BlobServer(certificates, fleet)
    yield server
    server.close()


@pytest.fixture
def broker(tmp_path_factory, certificates):
    if MOSQUITTO is None:
        pytest.skip("Mosquitto is not installed")
    broker = Broker(tmp_path_factory.mktemp("broker"), certificates)
    yield broker
    broker.stop()


@pytest.fixture
def gateway(broker, certificates, fleet):
    gateway = Gateway(broker, certificates, fleet)
    yield gateway
    gateway.close()


@pytest.fixture
def enrolled(tmp_path, certificates, fleet, blob_server, broker):
    """The folder of an enrolled device that can reach everything."""
    return write_identity(
        tmp_path / "device",
        certificates,
        fleet.root,
        mqtt_port=broker.port,
        devices_url=blob_server.url,
    )
