"""A part's heartbeat: when it is due, and what becomes of one that is not written."""

import threading
from datetime import timedelta

import pytest
from mqtt_clients import wait_for
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from edgec_fleet import process
from edgec_fleet.db.schema import Part, utcnow
from edgec_fleet.process import Process
from edgec_fleet.server import Server

pytestmark = pytest.mark.parametrize("template", ["sqlite"], indirect=True)


def rename(server: Server, table: str, name: str) -> None:
    with server.db.write() as session:
        session.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


def row(server: Server, this: Process) -> Part | None:
    with server.db.read() as session:
        return session.get(Part, (this.name, this.instance))


def test_a_heartbeat_that_was_not_written_stays_due(server: Server) -> None:
    this = Process("gateway")
    rename(server, "parts", "away")
    with pytest.raises(OperationalError):
        this.beat(server.db)
    rename(server, "away", "parts")
    assert this.beaten_at_s == float("-inf")

    this.beat(server.db)

    assert row(server, this) is not None
    assert this.beaten_at_s > float("-inf")


def test_a_heartbeat_that_is_not_due_is_not_written(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = Process("gateway")
    monkeypatch.setattr(process, "BEAT_S", 3600.0)
    this.beat(server.db)
    first = row(server, this)

    this.beat(server.db)
    second = row(server, this)
    this.beat(server.db, now=True)
    third = row(server, this)

    assert first is not None
    assert second is not None
    assert third is not None
    assert first.beat_at == second.beat_at < third.beat_at


def test_heartbeats_go_on_when_the_clock_is_set_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = Process("gateway")
    this.beat(server.db)
    earlier = utcnow() - timedelta(minutes=5)
    monkeypatch.setattr(process, "BEAT_S", 0.0)
    monkeypatch.setattr(process, "utcnow", lambda: earlier)

    this.beat(server.db)

    written = row(server, this)
    assert written is not None
    assert written.beat_at == earlier


def test_a_heartbeat_that_comes_too_late_is_dropped_when_the_part_has_begun_anew(
    server: Server,
) -> None:
    this = Process("gateway")
    late = threading.Thread(target=this.beat, args=(server.db,), daemon=True)
    with server.db.write() as session:
        session.execute(text("SELECT 1"))  # holds the write lock
        late.start()
        wait_for(lambda: server.db.engine.pool.checkedout() == 2, "it to wait")  # type: ignore[attr-defined]
        this.begin_anew()
    late.join()
    assert row(server, this) is None

    this.beat(server.db)

    assert row(server, this) is not None
