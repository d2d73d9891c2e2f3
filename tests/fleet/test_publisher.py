"""What a device asked for stays due until the broker has it and that is written down."""

from collections.abc import Callable
from typing import Any

import pytest
from gateway_world import OPERATOR
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from edgec_bundle.store import DEFAULT_BLOCK_BYTES
from edgec_fleet.db.schema import Device
from edgec_fleet.gateway.link import UnsentError
from edgec_fleet.gateway.packets import PacketLimits
from edgec_fleet.gateway.publisher import Publisher
from edgec_fleet.gateway.wants import Pace, Wants
from edgec_fleet.registry import publish
from edgec_fleet.rollout import control, engine
from edgec_fleet.server import Server

pytestmark = pytest.mark.parametrize("template", ["sqlite"], indirect=True)


class Wire:
    """The way to a broker; what happens on it is up to the test."""

    def __init__(self) -> None:
        self.on_send: Callable[[], None] = lambda: None
        self.on_wait: Callable[[], None] = lambda: None

    def send(self, _topic: str, _payload: bytes, *, qos: int, retain: bool) -> None:
        assert (qos, retain) == (1, True)
        self.on_send()

    def wait(self, _infos: list[None]) -> None:
        self.on_wait()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def publisher(server: Server, bundles: Any, wire: Wire) -> Publisher:
    """One that has published the assignment of `cam`."""
    taken = publish.take(server, [bundles.make()])
    with server.db.write() as session:
        publish.publish(server, session, "default", taken, None, OPERATOR)
        session.add(Device(id="cam", tenant="default", profiles=["rpi4"], tags={}, online=True))
    with server.db.write() as session:
        group = {"name": "all", "devices": ["cam"]}
        order = {"model": "digits", "version": "1.0.0", "groups": [group]}
        control.create(session, "default", order, OPERATOR)
    engine.tick_all(server.db)
    wants = Wants(Pace(DEFAULT_BLOCK_BYTES, gather_s=0))
    made = Publisher(server, wire, wants, PacketLimits(DEFAULT_BLOCK_BYTES))  # type: ignore[arg-type]
    assert [made.step(), made.step()] == [1, 0]
    return made


def unsent() -> None:
    raise UnsentError("the broker went away")


@pytest.mark.parametrize("when", ["on_send", "on_wait"])
def test_what_a_device_asked_for_is_sent_when_the_broker_is_back(
    publisher: Publisher, wire: Wire, when: str
) -> None:
    publisher.again(["cam"])
    setattr(wire, when, unsent)
    for _ in range(2):
        with pytest.raises(UnsentError):
            publisher.step()

    setattr(wire, when, lambda: None)

    assert [publisher.step(), publisher.step()] == [1, 0]


def test_what_a_device_asked_for_is_sent_again_if_it_could_not_be_written_down(
    publisher: Publisher, wire: Wire, server: Server
) -> None:
    def rename(table: str, name: str) -> None:
        with server.db.write() as session:
            session.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))

    publisher.again(["cam"])
    wire.on_wait = lambda: rename("assignments", "away")
    with pytest.raises(OperationalError):
        publisher.step()
    rename("away", "assignments")
    wire.on_wait = lambda: None

    assert [publisher.step(), publisher.step()] == [1, 0]


def test_what_a_device_asked_for_is_sent_when_it_can_be_composed(publisher: Publisher) -> None:
    publisher.again(["cam"])
    publisher._limits = PacketLimits(DEFAULT_BLOCK_BYTES, packet_bytes=100)
    refused = publisher.step()

    publisher._limits = PacketLimits(DEFAULT_BLOCK_BYTES)

    assert [refused, publisher.step(), publisher.step()] == [0, 1, 0]


def test_a_device_that_asks_while_its_message_is_under_way_gets_another(
    publisher: Publisher, wire: Wire
) -> None:
    publisher.again(["cam"])
    wire.on_wait = lambda: publisher.again(["cam"])
    first = publisher.step()
    wire.on_wait = lambda: None

    assert [first, publisher.step(), publisher.step()] == [1, 1, 0]


def test_a_device_without_an_assignment_is_not_kept_waiting(publisher: Publisher) -> None:
    publisher.again(["stranger"])

    assert publisher.step() == 0
    assert not publisher._again
