"""How long a gateway may work: as long as it reaches broker and database."""

import ssl
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from mqtt_clients import wait_for
from sqlalchemy import text

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
    this.beat(server.db)
    held_since = this.beaten_at_s
    this.begin_anew()  # so that the next one is due

    with Turn(this, server.db, link, lease_s=3600.0, hold_s=0.01) as turn:
        wait_for(lambda: this.beaten_at_s > held_since, "it to be held")

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

    this = Process("gateway")
    this.beat(server.db)
    with Turn(this, server.db, link, lease_s=3600.0, hold_s=0.01) as turn:
        wait_for(turn.is_over, "the other to be seen")

        assert link.ready.is_set()


def test_a_turn_lasts_from_the_last_heartbeat_that_was_written(server: Server, link: Link) -> None:
    this = Process("gateway")
    this.beat(server.db)
    this.beaten_at_s -= 3600.0  # an hour ago, and the row still stands

    with Turn(this, server.db, link, lease_s=3600.0, hold_s=3600.0) as turn:
        wait_for(turn.is_over, "it to lapse")

    assert not link.ready.is_set()


def test_a_turn_ends_though_the_database_does_not_answer(server: Server, link: Link) -> None:
    this = Process("gateway")
    this.beat(server.db)
    this.begin_anew()
    with server.db.write() as session:
        session.execute(text("SELECT 1"))  # holds the write lock
        with Turn(this, server.db, link, lease_s=3600.0, hold_s=0.01, leave_s=0.01) as turn:
            pool: Any = server.db.engine.pool
            wait_for(lambda: pool.checkedout() == 2, "it to wait for the lock")

        assert turn._threads[0].is_alive()
    turn._threads[0].join()
