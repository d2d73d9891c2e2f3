"""How long a gateway may work: as long as it reaches broker and database."""

import ssl
import time
from collections.abc import Iterator
from datetime import timedelta

import pytest
from mqtt_clients import wait_for

from edgec_fleet.db.schema import Part, utcnow
from edgec_fleet.gateway.link import Broker, Link
from edgec_fleet.gateway.turn import Turn
from edgec_fleet.process import BEAT_S, Process
from edgec_fleet.server import Server

pytestmark = pytest.mark.parametrize("template", ["sqlite"], indirect=True)


@pytest.fixture
def link() -> Iterator[Link]:
    """A link that counts as connected."""
    made = Link(Broker.parse("mqtt://127.0.0.1:1", ssl.create_default_context()), "gateway")
    made.ready.set()
    yield made
    made.close()


def test_a_turn_that_is_not_held_any_more_closes_the_link_whoever_hangs(
    server: Server, link: Link
) -> None:
    with Turn(Process("gateway"), server.db, link, lease_s=0.01) as turn:
        wait_for(lambda: not link.ready.is_set(), "the link to be closed")

        assert turn.is_over(time.monotonic())


def test_a_turn_is_held_by_each_heartbeat(server: Server, link: Link) -> None:
    with Turn(Process("gateway"), server.db, link, lease_s=3600.0) as turn:
        begun = time.monotonic()

        assert not any(turn.is_over(begun + beats * BEAT_S) for beats in range(1, 4))

        assert link.ready.is_set()
    with server.db.read() as session:
        assert session.query(Part).filter_by(name="gateway").count() == 1


def test_a_turn_is_over_when_another_gateway_began_before(server: Server, link: Link) -> None:
    before = utcnow() - timedelta(days=1)
    later = utcnow() + timedelta(hours=1)
    with server.db.write() as session:
        other = {"name": "gateway", "instance": "elsewhere:1", "detail": {}}
        session.add(Part(**other, started_at=before, beat_at=later))

    with Turn(Process("gateway"), server.db, link, lease_s=3600.0) as turn:
        assert turn.is_over(time.monotonic() + BEAT_S)
