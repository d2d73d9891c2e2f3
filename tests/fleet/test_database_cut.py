"""PostgreSQL goes away and comes back: who asks is told, who works waits, and nothing is lost."""

import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from free_ports import free_port
from gateway_world import OPERATOR, SEED, Device, Fleet, source
from link_proxy import Proxy
from mqtt_clients import PartProcess, wait_for
from sqlalchemy import make_url, select

from edgec_bundle.messages import Desired, Event, rfc3339
from edgec_fleet.api.app import operators_app
from edgec_fleet.broker import choice
from edgec_fleet.db.schema import DeviceEvent, DeviceUpdate, utcnow
from edgec_fleet.gateway import __main__ as gateway_process
from edgec_fleet.gateway.link import Broker as BrokerUrl
from edgec_fleet.gateway.link import Link
from edgec_fleet.gateway.turn import Turn
from edgec_fleet.process import Process, _say_good_bye
from edgec_fleet.rollout import __main__ as engine_process
from edgec_fleet.rollout import control
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings

pytestmark = pytest.mark.parametrize("template", ["postgresql"], indirect=True)
AWAY = "the database does not answer"


@pytest.fixture
def cable(settings: Settings) -> Iterator[Any]:
    """The way to PostgreSQL, to be cut."""
    url = make_url(settings.database_url)
    made = Proxy((url.host, url.port or 5432))
    yield made
    made.close()


@pytest.fixture
def far(settings: Settings, cable: Any) -> Settings:
    """The same server, whose database is at the other end of the cable."""
    url = make_url(settings.database_url).set(host="127.0.0.1", port=cable.port)
    return replace(
        settings,
        database=url.render_as_string(hide_password=False),
        mqtt=Address("127.0.0.1", free_port()),
        broker="mosquitto" if choice.find_mosquitto() else "amqtt",
    )


def cut(cable: Any) -> None:
    cable.refuse()
    cable.cut()


def test_the_api_says_that_the_database_is_away_and_answers_when_it_is_back(
    far: Settings, cable: Any, template: Any, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"Authorization": f"Bearer {template.tokens['viewer']}"}
    with closing(Server.open(far)) as server:
        client = operators_app(server).test_client()
        before = client.get("/v1/devices", headers=headers)

        cut(cable)
        refused = [client.get("/v1/devices", headers=headers) for _ in range(3)]
        cable.refuse(False)
        after = client.get("/v1/devices", headers=headers)

    assert [answer.status_code for answer in refused] == [503] * 3
    assert refused[0].json == {
        "error": "the database cannot be used right now; try again",
        "detail": None,
    }
    assert (before.status_code, after.status_code) == (200, 200)
    assert after.json == before.json
    said = [record for record in caplog.records if record.name == "edgec_fleet.api.problems"]
    assert len(said) == 3
    assert all("\n" not in record.getMessage() and not record.exc_info for record in said)


def test_a_part_that_starts_without_its_database_says_so_in_one_line(
    far: Settings, cable: Any, tmp_path: Path
) -> None:
    cut(cable)

    with pytest.raises(AssertionError, match="edgec-fleet engine: the database does not answer"):
        PartProcess("edgec_fleet.rollout", far, tmp_path / "log")

    assert "Traceback" not in (tmp_path / "log").read_text()
    assert len((tmp_path / "log").read_text().splitlines()) == 1


@contextmanager
def away(settings: Settings, cable: Any) -> Iterator[None]:
    """Nobody reaches the database."""
    cut(cable)
    yield
    cable.refuse(False)


@contextmanager
def read_only(settings: Settings, cable: Any) -> Iterator[None]:
    """As after a failover: whoever connects from now on must not write."""
    name = make_url(settings.database_url).database
    writes = "-c default_transaction_read_only=off"
    change = f'ALTER DATABASE "{name}"'
    with psycopg.connect(settings.database_url, autocommit=True, options=writes) as connection:
        connection.execute(f"{change} SET default_transaction_read_only = on")
        cable.cut()
        yield
        connection.execute(f"{change} RESET default_transaction_read_only")
        cable.cut()


@pytest.mark.parametrize("outage", [away, pytest.param(read_only, marks=pytest.mark.full)])
def test_engine_and_gateway_go_on_when_the_database_is_back_and_nothing_is_lost(
    far: Settings, settings: Settings, cable: Any, bundles: Any, tmp_path: Path, outage: Any
) -> None:
    near = replace(far, database=settings.database)  # for ourselves
    with ExitStack() as running, closing(Server.open(near)) as server:
        fleet = Fleet(server, tmp_path, bundles)
        parts = {}
        for name in ("broker", "gateway", "rollout"):
            parts[name] = PartProcess(f"edgec_fleet.{name}", far, tmp_path / f"{name}.log")
            running.callback(parts[name].stop)
        model, next_model = fleet.new_model(), fleet.new_model()
        for one in (model, next_model):
            fleet.publish(one, "1.0.0", 1, SEED)
        device = fleet.device("patient")
        running.callback(device.close)
        device.hello()
        rollout = fleet.roll_out(model, "1.0.0", "patient")
        desired = device.desired(model)

        with outage(settings, cable):
            tell(device, desired, rollout, model, "fetching", "verifying", "committed")
            order = {"model": next_model, "version": "1.0.0", "groups": [GROUP]}
            with server.db.write() as session:
                control.create(session, "default", order, OPERATOR)
            for part in parts.values():
                wait_for(lambda part=part: AWAY in part.log.read_text(), f"{part.log}: {AWAY}")

        wait_for(lambda: heard(server, rollout) == (PHASES, "committed"), "the events to arrive")
        file = source(device.desired(next_model), "model")
        assert device.fetch(file.sha256, file.bytes)
        assert all(part.process.poll() is None for part in parts.values())
        assert not any("Traceback" in part.log.read_text() for part in parts.values())


GROUP = {"name": "all", "devices": ["patient"]}
PHASES = ["fetching", "verifying", "committed"]


def tell(device: Device, desired: Desired, rollout: str, model: str, *phases: str) -> None:
    """Say that an update went through these phases."""
    for seq, phase in enumerate(phases):
        device.say(
            Event(
                at=rfc3339(utcnow()),
                boot_id="b1",
                seq=seq,
                model=model,
                manifest=source(desired, "manifest").sha256,
                assignment=1,
                rollout=rollout,
                phase=phase,
                previous_phase="idle",
            )
        )


def heard(server: Server, rollout: str) -> tuple[list[str], str]:
    """Return the phases that the server knows of, and the update's state."""
    events = (
        select(DeviceEvent.phase)
        .where(DeviceEvent.device_id == "patient", DeviceEvent.kind == "event")
        .order_by(DeviceEvent.id)
    )
    update = select(DeviceUpdate.state).where(DeviceUpdate.rollout_id == rollout)
    with server.db.read() as session:
        return list(session.scalars(events)), session.scalars(update).one()


def test_no_thread_ends_while_the_database_is_read_only(
    far: Settings, settings: Settings, cable: Any, caplog: pytest.LogCaptureFixture
) -> None:
    link = Link(BrokerUrl.parse("mqtt://127.0.0.1:1", ssl.create_default_context()), "gateway")
    link.ready.set()
    ticking, working, waiting = Process("engine"), Process("gateway"), Process("gateway")
    working.instance, waiting.instance = "machine-1:1", "machine-2:1"

    def has_complained(name: str) -> bool:
        said = (one.getMessage() for one in caplog.records if one.threadName == name)
        return any(line.startswith(AWAY) and "read-only" in line for line in said)

    with closing(Server.open(far)) as server:
        working.beat(server.db)
        engine, stand_by = (
            threading.Thread(target=work, args=(this, server), name=name, daemon=True)
            for work, this, name in (
                (engine_process.run, ticking, "engine"),
                (gateway_process._stand_by, waiting, "stand-by"),
            )
        )
        engine.start()
        wait_for(lambda: ticking.beaten_at_s > float("-inf"), "the engine")
        with Turn(working, server.db, link, lease_s=3600.0, hold_s=0.01) as turn:
            with read_only(settings, cable):
                before = working.beaten_at_s
                for gateway in (working, waiting):  # so that their next heartbeats are due
                    gateway.begin_anew()
                stand_by.start()
                for name in ("engine", "stand-by", "edgec-turn-hold"):
                    wait_for(lambda name=name: has_complained(name), f"{name}: {AWAY}")
                _say_good_bye(waiting, server.db)
            wait_for(lambda: working.beaten_at_s > before, "the turn to be held again")
            wait_for(lambda: waiting.beaten_at_s > float("-inf"), "who stands by to say so")

            assert has_complained(threading.current_thread().name)
            assert engine.is_alive()
            assert not turn.is_over()
        for this, thread in ((ticking, engine), (waiting, stand_by)):
            this.stopping.set()
            thread.join()
    link.close()
