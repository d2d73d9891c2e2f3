"""Gateways on two hosts, one of which is cut off without a word from broker, database or both."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from fleet_bundles import Bundles
from free_ports import free_port
from gateway_world import SEED, Fleet, source
from mqtt_clients import PartProcess, wait_for
from two_hosts import CannotError, Host, Site, postgresql

from edgec_bundle.store import DEFAULT_BLOCK_BYTES
from edgec_fleet.broker import choice
from edgec_fleet.initialise import initialise
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
BLOCKS = -(-len(SEED) // DEFAULT_BLOCK_BYTES)
WORKS = "ready mqtts://"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    try:
        made = Site(2)
    except CannotError as error:
        pytest.skip(f"no network namespaces: {error}")
    yield made
    made.close()


@pytest.fixture(scope="module")
def database(site: Site) -> Iterator[str]:
    try:
        with postgresql() as url:
            yield url
    except CannotError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def fleet(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("two-hosts")
    (folder / "bundles").mkdir()
    settings = Settings(
        dir=folder / "fleet",
        database=database,
        mqtt=Address("0.0.0.0", free_port()),
        broker="mosquitto" if choice.find_mosquitto() else "amqtt",
    )
    initialise(settings, password="correct horse battery")
    with closing(Server.open(settings)) as server:
        made = Fleet(server, folder, Bundles(folder / "bundles"))
        try:
            made.start("broker")
            yield made
        finally:
            for part in made.parts.values():
                part.stop()


class Gateway:
    """A gateway on a host of its own."""

    def __init__(self, fleet: Fleet, host: Host, log: Path) -> None:
        self.host = host
        mqtt = Address(Site.BROKER, fleet.port)
        settings = replace(fleet.server.settings, mqtt=mqtt)
        self.part = PartProcess("edgec_fleet.gateway", settings, log, host.prefix)

    def said(self, words: str) -> None:
        """Wait until it has said this."""
        wait_for(lambda: words in self.part.log.read_text(), f"{self.host.name}: {words}")


@pytest.fixture
def gateways(fleet: Fleet, site: Site, tmp_path: Path) -> Iterator[list[Gateway]]:
    """The one at work, and the one that stands by."""
    made: list[Gateway] = []
    try:
        for host in site.hosts:
            made.append(Gateway(fleet, host, tmp_path / f"{host.name}.log"))
        made[0].said(WORKS)
        made[1].said("to take over: gateway host-1:")
        yield made
    finally:
        for host in site.hosts:
            host.mend()
        for one in made:
            one.part.stop()


CUTS = {
    "database": (Site.DATABASE,),
    "broker": (Site.BROKER,),
    "both": (Site.DATABASE, Site.BROKER),
}


@pytest.mark.parametrize("addresses", CUTS.values(), ids=CUTS)
def test_the_other_gateway_takes_over_and_the_one_that_was_cut_off_stays_away(
    fleet: Fleet, gateways: list[Gateway], addresses: tuple[str, ...]
) -> None:
    first, second = gateways
    model = fleet.new_model()
    content = fleet.publish(model, "1.0.0", 1, SEED)
    device = fleet.device(f"device-{model}")
    device.hello()
    fleet.roll_out(model, "1.0.0", device.name)
    file = source(device.desired(model), "model")
    assert device.fetch(file.sha256, file.bytes) == content

    first.host.cut(*addresses)
    second.said(WORKS)

    first.said("was away for too long: the connection to the broker is closed")
    blocks = Counter[str]()
    device.ask(file.sha256, *range(BLOCKS))
    while len(blocks) < BLOCKS:
        topic, _, _ = device.client.next()
        if "/blob/" in topic:
            blocks[topic] += 1
    assert set(blocks.values()) == {1}

    other = fleet.new_model()
    newer_content = fleet.publish(other, "1.0.0", 1, SEED + b"!")
    fleet.roll_out(other, "1.0.0", device.name)
    both = device.desired(other).sources
    newer = next(one for one in both if (one.model, one.role) == (other, "model"))
    assert device.fetch(newer.sha256, newer.bytes) == newer_content

    first.host.mend()
    first.said("to take over: gateway host-2:")
    assert device.fetch(file.sha256, file.bytes) == content
    assert "connection to" not in second.part.log.read_text()  # nobody took it away
    assert device.client.losses == 0
    device.close()
