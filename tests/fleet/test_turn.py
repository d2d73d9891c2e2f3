"""How long a gateway may work: as long as it reaches broker and database."""

import ssl
from collections.abc import Iterator
from datetime import timedelta

import pytest
from mqtt_clients import wait_for

from edgec_fleet.db.schema import Part, utcnow
from edgec_fleet.gateway.link import Broker, Link
from edgec_fleet.gateway.turn import Turn
from edgec_fleet.process import Process
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
    with Turn(Process("gateway"), server.db, link, lease_s=0.01, hold_s=3600.0) as turn:
        wait_for(lambda: not link.ready.is_set(), "the link to be closed")

        assert turn.is_over()


def test_a_turn_is_held_by_heartbeats_whatever_the_work_does(server: Server, link: Link) -> None:
    this = Process("gateway")

    with Turn(this, server.db, link, lease_s=3600.0, hold_s=0.01) as turn:
        held_since = turn._held_at
        wait_for(lambda: turn._held_at > held_since, "it to be held")

        assert not turn.is_over()
        assert link.ready.is_set()
    with server.db.read() as session:
        assert session.get(Part, ("gateway", this.instance)) is not None


def test_a_turn_is_over_when_another_gateway_began_before(server: Server, link: Link) -> None:
    before = utcnow() - timedelta(days=1)
    later = utcnow() + timedelta(hours=1)
    with server.db.write() as session:
        other = {"name": "gateway", "instance": "elsewhere:1", "detail": {}}
        session.add(Part(**other, started_at=before, beat_at=later))

    with Turn(Process("gateway"), server.db, link, lease_s=3600.0, hold_s=0.01) as turn:
        wait_for(turn.is_over, "the other to be seen")
