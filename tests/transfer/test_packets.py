"""Blocks that the broker takes: it is asked, and blocks are made to fit or refused."""

import getpass
import socket
import ssl
import subprocess
import time

import pytest
from free_ports import free_port

from edgec_fleet.broker.choice import find_mosquitto
from edgec_fleet.errors import FleetError, SettingsError
from edgec_fleet.gateway.link import Broker
from edgec_fleet.gateway.packets import PacketLimits, ask_maximum, fit


@pytest.fixture
def start_broker(tmp_path):
    """Return a function that starts a Mosquitto with more lines of configuration."""
    program, started = find_mosquitto(), []
    if program is None:
        pytest.skip("Mosquitto is not installed")

    def start(lines):
        port = free_port()
        config = tmp_path / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\n{lines}\n"
        )
        started.append(
            subprocess.Popen(
                [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    return Broker.parse(f"mqtt://127.0.0.1:{port}", ssl.create_default_context())
            time.sleep(0.05)
        raise AssertionError("mosquitto did not start")

    yield start
    for process in started:
        process.terminate()
        process.wait(60)


def test_a_broker_is_asked_what_it_takes_and_blocks_are_made_to_fit(start_broker):
    broker = start_broker("max_packet_size 20000")

    most = ask_maximum(broker, "edgec.gateway")

    assert most == 20000
    assert fit(131072, most) == PacketLimits(16384, 20000)


def test_a_broker_that_names_no_limit_is_believed_to_take_what_is_configured(start_broker):
    assert ask_maximum(start_broker(""), "edgec.gateway") is None
    assert fit(131072, None) == PacketLimits(131072)


def test_a_broker_that_is_not_there_is_no_reason_to_fail():
    nobody = Broker.parse(f"mqtt://127.0.0.1:{free_port()}", ssl.create_default_context())

    assert ask_maximum(nobody, "edgec.gateway") is None


def test_a_broker_that_takes_next_to_nothing_is_refused_plainly():
    with pytest.raises(SettingsError, match="4000 bytes at most"):
        fit(131072, 4000)


def test_a_message_that_is_too_large_is_an_error_before_it_is_sent():
    limits = PacketLimits(4096, 5000)
    limits.check("topic", bytes(4900))

    with pytest.raises(FleetError, match="raise the broker's maximum packet size"):
        limits.check("topic", bytes(5000))
