"""Makes the modules beside the tests importable (pytest imports tests by importlib)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from doubles import LIMITS, load
from wire import Wire

from edgec_agent.host import ModelHost
from edgec_agent.server import serve


@pytest.fixture
def host():
    host = ModelHost(wait_s=5.0)
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
