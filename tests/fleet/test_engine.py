"""Rollouts in the database, on SQLite and PostgreSQL: real releases, real messages, no broker."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from mqtt_clients import LONG_S
from sqlalchemy import select

from edgec_bundle.errors import MessageError
from edgec_bundle.messages import (
    AgentInfo,
    Deployed,
    Event,
    Hello,
    ModelState,
    State,
    Telemetry,
    Topics,
    rfc3339,
)
from edgec_bundle.messages import telemetry as wire
from edgec_bundle.trust.director import verify_assignment
from edgec_fleet import audit, director
from edgec_fleet.db.schema import (
    Alert,
    Assignment,
    Device,
    DeviceEvent,
    DeviceUpdate,
    Release,
    Rollout,
    RolloutGroup,
    RolloutLog,
    Variant,
    utcnow,
)
from edgec_fleet.db.schema import Telemetry as TelemetryRow
from edgec_fleet.errors import ConflictError, RefusedError, UnknownError
from edgec_fleet.gateway import ingest, sources
from edgec_fleet.registry import publish, releases, trust_state
from edgec_fleet.rollout import assign, control, engine, joiners
from edgec_fleet.server import Server

OPERATOR = audit.Actor("olga")
CAREFUL = [{"name": "canary", "count": 1}, {"name": "rest", "percent": 100}]


class World:
    """A fleet with published releases and devices that speak real messages."""

    def __init__(self, server: Server, bundles: Any) -> None:
        self.server = server
        self._bundles = bundles
        self._seq = 0
        self.now = utcnow()

    # -- releases and devices

    def publish(self, version: str, number: int, *profiles: str, model: str = "digits") -> None:
        paths = [
            self._bundles.make(
                version, number, profile, model, content=b"weights" * 2000 + bytes([number])
            )
            for profile in profiles or ("rpi4",)
        ]
        taken = publish.take(self.server, paths)
        with self.server.db.write() as session:
            publish.publish(self.server, session, "default", taken, None, OPERATOR)

    def add(self, *devices: str, profiles: list[str] | None = None, **tags: str) -> None:
        with self.server.db.write() as session:
            for device in devices:
                session.add(
                    Device(
                        id=device,
                        tenant="default",
                        profiles=profiles or ["rpi4"],
                        tags=tags,
                        online=True,
                    )
                )

    def manifest(self, version: str, profile: str = "rpi4", model: str = "digits") -> str:
        with self.server.db.read() as session:
            return session.scalars(
                select(Variant.manifest_sha256)
                .join(Release, Release.id == Variant.release_id)
                .where(
                    Release.version == version, Release.model == model, Variant.profile == profile
                )
            ).one()

    # -- rollouts

    def create(self, version: str, **order: Any) -> str:
        with self.server.db.write() as session:
            order = {"model": "digits", "version": version, **order}
            return control.create(session, "default", order, OPERATOR).id

    def act(self, action: Any, rollout: str, *arguments: Any, **options: Any) -> None:
        with self.server.db.write() as session:
            row = session.get_one(Rollout, rollout)
            action(session, row, *arguments, OPERATOR, **options)

    def tick(self, seconds: float = 0) -> int:
        self.now = max(utcnow(), self.now) + timedelta(seconds=seconds)
        return engine.tick_all(self.server.db, self.now)

    # -- devices speak

    def say(self, device: str, message: Any, tenant: str = "default") -> bool:
        topic = Topics(tenant, device).up(message.KIND)
        with self.server.db.write() as session:
            return ingest.take(session, ingest.parse(topic, message.to_bytes()))

    def report(self, device: str, rollout: str, phase: str, **facts: Any) -> Event:
        newest = self.newest(device)
        version = facts.pop("manifest", None)
        self._seq += 1
        event = Event(
            at=rfc3339(utcnow()),
            boot_id="boot",
            seq=self._seq,
            model="digits",
            manifest=version or newest.targets[0]["sha256"],
            assignment=facts.pop("counter", newest.counter),
            rollout=rollout,
            phase=phase,
            previous_phase=facts.pop("previous_phase", "idle"),
            **facts,
        )
        assert self.say(device, event)
        return event

    def runs(self, device: str, version: str, phase: str = "committed", **files: str) -> None:
        """The device reports this version as active."""
        deployed = Deployed(
            manifest=self.manifest(version), version=version, release=1, files=files
        )
        self.say(
            device,
            State(
                at=rfc3339(utcnow()),
                boot_id="boot",
                online=True,
                models={"digits": ModelState(active=deployed, phase=phase)},
            ),
        )

    # -- what is so

    def newest(self, device: str) -> Assignment:
        with self.server.db.read() as session:
            found = assign.latest(session, device)
        assert found is not None, f"{device} was told nothing"
        return found

    def told(self, device: str) -> dict[str, str]:
        """Return {path: rollout or ""} of the newest assignment."""
        with self.server.db.read() as session:
            found = assign.latest(session, device)
        return {} if found is None else {one["path"]: "" for one in found.targets}

    def states(self, rollout: str) -> dict[str, str]:
        with self.server.db.read() as session:
            rows = session.execute(
                select(DeviceUpdate.device_id, DeviceUpdate.state).where(
                    DeviceUpdate.rollout_id == rollout
                )
            )
            return {row.device_id: row.state for row in rows}

    def rollout(self, rollout: str) -> Rollout:
        with self.server.db.read() as session:
            return session.get_one(Rollout, rollout)

    def log(self, rollout: str) -> list[tuple[str, str | None, str, str]]:
        with self.server.db.read() as session:
            rows = session.scalars(
                select(RolloutLog).where(RolloutLog.rollout_id == rollout).order_by(RolloutLog.id)
            )
            return [(row.subject, row.device_id, row.after, row.why) for row in rows]


@pytest.fixture
def world(server: Server, bundles: Any) -> World:
    return World(server, bundles)


def canary_of(world: World, rollout: str) -> str:
    return next(device for device, state in world.states(rollout).items() if state == "assigned")


def test_rollout_goes_group_by_group_until_every_device_has_committed(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", "cam-2", "cam-3")
    rollout = world.create("1.0.0", strategy="canary")

    world.tick()
    canary = canary_of(world, rollout)
    others = {"cam-1", "cam-2", "cam-3"} - {canary}
    assert list(world.states(rollout).values()).count("queued") == 2
    world.report(canary, rollout, "fetching")
    world.report(canary, rollout, "probation")
    world.tick()
    assert all(world.states(rollout)[one] == "queued" for one in others)
    world.report(canary, rollout, "committed")
    world.tick()
    for one in others:
        world.report(one, rollout, "committed")
    world.tick()

    row = world.rollout(rollout)
    assert (row.state, row.reason) == ("completed", "3 devices committed")
    assert set(world.states(rollout).values()) == {"committed"}
    assert all(why for _, _, _, why in world.log(rollout))
    transitions = [(subject, after) for subject, device, after, _ in world.log(rollout)]
    assert transitions.count(("device", "assigned")) == 3
    assert transitions.count(("device", "committed")) == 3
    assert transitions[-1] == ("rollout", "completed")


def test_engine_picks_the_first_accepted_profile_that_the_release_has(world: World) -> None:
    world.publish("1.0.0", 1, "generic-arm64", "rpi4")
    world.add("both", profiles=["jetson-orin-nano", "rpi4", "generic-arm64"])
    world.create("1.0.0", strategy="all")

    world.tick()

    assert list(world.told("both")) == ["digits/1.0.0/rpi4/manifest.json"]


def test_device_for_which_the_release_has_nothing_is_rejected_with_the_reason(
    world: World,
) -> None:
    world.publish("1.0.0", 1)
    world.add("odd", profiles=["coral-edgetpu"])
    rollout = world.create("1.0.0", strategy="all")

    world.tick()
    world.tick()

    assert world.states(rollout) == {"odd": "rejected"}
    assert world.told("odd") == {}
    assert world.rollout(rollout).state == "paused"
    assert "the device accepts coral-edgetpu; the release has rpi4" in world.rollout(rollout).reason


@pytest.mark.parametrize("phase", ["rejected", "rolled_back", "failed"])
def test_failure_pauses_and_the_device_is_told_what_it_really_runs(
    world: World, phase: str
) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", "cam-2")
    first = world.create("1.0.0", strategy="all")
    world.tick()
    for device in ("cam-1", "cam-2"):
        world.report(device, first, "committed")
        world.runs(device, "1.0.0")
    world.tick()
    world.publish("1.1.0", 2)
    second = world.create("1.1.0", groups=CAREFUL)
    world.tick()
    canary = canary_of(world, second)
    counter = world.newest(canary).counter

    world.report(canary, second, phase, reason="acceptance 0.12 is below 0.90")
    world.tick()

    row = world.rollout(second)
    assert row.state == "paused"
    assert "group canary exceeded its error threshold: 1 of 1 devices failed" in row.reason
    assert canary in row.reason
    assert "acceptance 0.12 is below 0.90" in row.reason
    assert list(world.told(canary)) == ["digits/1.0.0/rpi4/manifest.json"]
    assert world.newest(canary).counter == counter + 1
    with world.server.db.read() as session:
        alert = session.scalars(select(Alert)).one()
    assert (alert.kind, alert.object_id, alert.closed_at) == ("rollout.paused", second, None)
    assert world.tick() == 0  # and it stays so


def test_only_failed_devices_get_another_try_with_a_new_counter(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1")
    rollout = world.create("1.0.0", groups=[{"name": "all", "percent": 100, "retries": 1}])
    world.tick()
    first = world.newest("cam-1").counter
    world.report("cam-1", rollout, "failed", reason="no room")

    world.tick()
    assert world.rollout(rollout).state == "running"
    world.tick(40)

    assert world.states(rollout) == {"cam-1": "assigned"}
    assert world.newest("cam-1").counter == first + 1
    world.report("cam-1", rollout, "failed", reason="no room")
    world.tick(40)
    assert world.rollout(rollout).state == "paused"


def test_offline_device_is_timed_out_and_counts_again_when_it_comes_back(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", "away")
    rollout = world.create(
        "1.0.0", groups=[{"name": "all", "percent": 100, "device_timeout_s": 60}]
    )
    world.tick()
    world.report("cam-1", rollout, "committed")
    world.say("away", State(at=rfc3339(utcnow()), boot_id="b", online=False))

    world.tick(61)
    assert world.states(rollout) == {"cam-1": "committed", "away": "timed_out"}
    assert world.rollout(rollout).state == "completed"

    world.report("away", rollout, "fetching")
    world.report("away", rollout, "committed")
    assert world.states(rollout)["away"] == "committed"


def test_commit_whose_event_was_lost_is_recognised_by_the_reported_state(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1")
    rollout = world.create("1.0.0", strategy="all")
    world.tick()

    world.runs("cam-1", "1.0.0", phase="probation")
    world.tick()
    assert world.states(rollout) == {"cam-1": "assigned"}
    world.runs("cam-1", "1.0.0", phase="idle")
    world.tick()

    assert world.rollout(rollout).state == "completed"


def test_pause_resume_and_next(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", "cam-2", "cam-3")
    rollout = world.create("1.0.0", groups=CAREFUL)
    world.tick()
    canary = canary_of(world, rollout)

    world.act(control.pause, rollout)
    world.report(canary, rollout, "rolled_back")
    assert world.tick() >= 0
    assert world.rollout(rollout).reason == "paused by olga"
    world.act(control.resume, rollout)
    world.tick()

    assert world.rollout(rollout).state == "running"  # the failure was seen and accepted
    assert sorted(world.states(rollout).values()) == ["assigned", "assigned", "rolled_back"]
    with pytest.raises(ConflictError, match="cannot resume a rollout that is running"):
        world.act(control.resume, rollout)


def test_next_starts_the_group_that_waits(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", "cam-2")
    rollout = world.create("1.0.0", groups=CAREFUL)
    world.tick()

    world.act(control.advance, rollout)
    world.tick()

    assert set(world.states(rollout).values()) == {"assigned"}
    with pytest.raises(ConflictError, match="no group"):
        world.act(control.advance, rollout)


def test_abort_touches_only_devices_that_were_not_told(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", "cam-2")
    rollout = world.create("1.0.0", groups=CAREFUL)
    world.tick()
    canary = canary_of(world, rollout)

    world.act(control.abort, rollout)
    world.tick()
    world.report(canary, rollout, "committed")

    assert sorted(world.states(rollout).values()) == ["cancelled", "committed"]
    assert list(world.told(canary)) == ["digits/1.0.0/rpi4/manifest.json"]
    with pytest.raises(ConflictError, match="cannot abort a rollout that is aborted"):
        world.act(control.abort, rollout)


def test_abort_and_roll_back_tells_devices_the_release_they_had(world: World) -> None:
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.add("cam-1", "cam-2")
    old = world.manifest("1.0.0")
    for device in ("cam-1", "cam-2"):
        world.runs(device, "1.0.0")
    rollout = world.create("1.1.0", groups=CAREFUL)
    world.tick()
    canary = canary_of(world, rollout)
    deployed = {
        name: Deployed(manifest=world.manifest(name), version=name, release=n, files={})
        for n, name in enumerate(("1.0.0", "1.1.0"), 1)
    }
    world.report(canary, rollout, "committed")
    both = ModelState(active=deployed["1.1.0"], previous=deployed["1.0.0"], phase="committed")
    world.say(
        canary,
        State(at=rfc3339(utcnow()), boot_id="boot", online=True, models={"digits": both}),
    )

    world.act(control.abort, rollout, roll_back=True)
    assert list(world.told(canary)) == ["digits/1.0.0/rpi4/manifest.json"]
    world.report(canary, rollout, "committed", manifest=old)

    assert world.states(rollout)[canary] == "rolled_back"


def test_retry_and_exclude_of_one_device(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", "cam-2")
    rollout = world.create("1.0.0", strategy="all")
    world.tick()
    world.report("cam-1", rollout, "rolled_back")
    world.report("cam-2", rollout, "rejected")
    world.tick()
    assert world.rollout(rollout).state == "paused"

    with world.server.db.write() as session:
        row = session.get_one(Rollout, rollout)
        control.retry_device(session, row, "cam-1", OPERATOR)
        control.exclude_device(session, row, "cam-2", OPERATOR)
    world.act(control.resume, rollout)
    world.tick()

    assert world.states(rollout) == {"cam-1": "assigned", "cam-2": "cancelled"}


def test_rate_is_kept(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add(*(f"cam-{i}" for i in range(5)))
    rollout = world.create("1.0.0", strategy="all", rate_per_minute=2)

    world.tick()
    world.tick(1)

    assert list(world.states(rollout).values()).count("assigned") == 2


def test_one_rollout_per_device_and_model_at_a_time(world: World) -> None:
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.publish("1.0.0", 1, model="sounds")
    world.add("cam-1", "cam-2")
    first = world.create("1.0.0", groups=[{"name": "one", "devices": ["cam-1"]}])

    with pytest.raises(ConflictError, match=r"1 devices are in the running rollout of digits"):
        world.create("1.1.0", strategy="all")
    world.create("1.1.0", groups=[{"name": "other", "devices": ["cam-2"]}])
    world.create("1.0.0", strategy="all", model="sounds")
    world.act(control.abort, first)
    world.tick()

    assert world.create("1.1.0", groups=[{"name": "one", "devices": ["cam-1"]}])


def test_later_rollout_closes_what_an_aborted_one_left_open(world: World) -> None:
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.add("cam-1")
    first = world.create("1.0.0", strategy="all")
    world.tick()
    world.act(control.abort, first)
    second = world.create("1.1.0", strategy="all")

    world.tick()

    assert world.states(first) == {"cam-1": "cancelled"}
    assert list(world.told("cam-1")) == ["digits/1.1.0/rpi4/manifest.json"]
    world.report("cam-1", first, "committed", counter=1)  # too late, of the old assignment
    assert world.states(first) == {"cam-1": "cancelled"}
    assert world.states(second) == {"cam-1": "assigned"}


def test_a_devices_models_are_told_together_and_withdrawn_ones_are_left_out(
    world: World,
) -> None:
    world.publish("1.0.0", 1)
    world.publish("2.0.0", 1, model="sounds")
    world.publish("2.1.0", 2, model="sounds")
    world.add("cam-1")
    world.create("1.0.0", strategy="all")
    world.create("2.0.0", strategy="all", model="sounds")
    world.tick()
    assert sorted(world.told("cam-1")) == [
        "digits/1.0.0/rpi4/manifest.json",
        "sounds/2.0.0/rpi4/manifest.json",
    ]

    with world.server.db.write() as session:
        release = releases.get_release(session, "default", "digits", "1.0.0")
        releases.withdraw(world.server, session, release, "wrong labels", OPERATOR)
    world.tick()
    paused = [
        row.reason for row in (world.rollout(one) for one in _ids(world)) if row.state == "paused"
    ]
    with world.server.db.write() as session:
        for row in session.scalars(select(Rollout).where(Rollout.state == "running")):
            control.abort(session, row, OPERATOR)
    world.create("2.1.0", strategy="all", model="sounds")
    world.tick()

    assert paused == ["digits 1.0.0 was withdrawn: wrong labels"]
    assert list(world.told("cam-1")) == ["sounds/2.1.0/rpi4/manifest.json"]


def _ids(world: World) -> list[str]:
    with world.server.db.read() as session:
        return list(session.scalars(select(Rollout.id)))


def test_revoked_device_leaves_the_rollout(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", "lost")
    rollout = world.create("1.0.0", strategy="all")
    world.tick()
    with world.server.db.write() as session:
        session.get_one(Device, "lost").revoked_at = utcnow()
    world.report("cam-1", rollout, "committed")

    world.tick()

    assert world.states(rollout) == {"cam-1": "committed", "lost": "cancelled"}
    assert world.rollout(rollout).state == "completed"


def test_devices_that_come_later_join_the_open_group_at_its_rate(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1")
    rollout = world.create("1.0.0", strategy="all", rate_per_minute=1)
    world.tick()
    world.report("cam-1", rollout, "committed")
    world.tick()
    assert world.rollout(rollout).state == "completed"

    world.add("late-1", "late-2")
    assert joiners.adopt_all(world.server.db) == 2
    assert joiners.adopt_all(world.server.db) == 0
    row = world.rollout(rollout)
    assert (row.state, row.reason) == ("running", "2 devices came later: late-1, late-2")
    world.tick(61)
    assert sorted(world.states(rollout).values()) == ["assigned", "committed", "queued"]


def test_later_devices_join_only_what_takes_them(world: World) -> None:
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.add("lab-1", site="lab")
    lab = world.create("1.0.0", groups=[{"name": "lab", "filter": {"site": "lab"}}])
    world.add("lab-2", site="lab")
    world.add("shop", site="shop")

    assert joiners.adopt_all(world.server.db) == 1

    assert sorted(world.states(lab)) == ["lab-1", "lab-2"]


@pytest.mark.parametrize(
    ("order", "error", "said"),
    [
        ({"version": "9.9.9"}, UnknownError, "no release 9.9.9"),
        ({"model": "nothing"}, UnknownError, "no model nothing"),
        ({"groups": [{"name": "a", "devices": ["ghost"]}]}, RefusedError, "no device ghost"),
        (
            {"groups": [{"name": "lab", "filter": {"site": "x"}}, {"name": "r", "percent": 100}]},
            RefusedError,
            "group lab has no device",
        ),
    ],
)
def test_impossible_orders_are_refused(
    world: World, order: dict[str, Any], error: type[Exception], said: str
) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1")

    with pytest.raises(error, match=said):
        world.create(**{"version": "1.0.0", **order})
    assert _ids(world) == []


def test_several_engines_at_once_tell_each_device_once(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add(*(f"cam-{i}" for i in range(12)))
    rollout = world.create("1.0.0", strategy="all")
    engines = [
        threading.Thread(target=lambda: [engine.tick_all(world.server.db) for _ in range(3)])
        for _ in range(3)
    ]

    for one in engines:
        one.start()
    for one in engines:
        one.join(LONG_S)
    world.tick()

    with world.server.db.read() as session:
        counters = session.execute(select(Assignment.device_id, Assignment.counter)).all()
    assert sorted(counters) == sorted((f"cam-{i}", 1) for i in range(12))
    assert set(world.states(rollout).values()) == {"assigned"}


def test_a_tick_that_dies_half_way_leaves_nothing_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", "cam-2")
    rollout = world.create("1.0.0", strategy="all")
    before = world.log(rollout)
    flush = engine.ledger.Log.flush

    def die(log: Any) -> None:
        flush(log)
        raise KeyboardInterrupt  # the process is killed

    monkeypatch.setattr(engine.ledger.Log, "flush", die)
    with pytest.raises(KeyboardInterrupt):
        world.tick()
    monkeypatch.undo()

    assert world.log(rollout) == before
    assert set(world.states(rollout).values()) == {"queued"}
    world.tick()
    assert set(world.states(rollout).values()) == {"assigned"}


# -- what devices say ---------------------------------------------------------------------------


def test_messages_that_come_twice_count_once(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1")
    rollout = world.create("1.0.0", strategy="all")
    world.tick()
    event = world.report("cam-1", rollout, "fetching")
    world.report("cam-1", rollout, "committed")
    telemetry = Telemetry(
        at=rfc3339(utcnow()),
        boot_id="boot",
        window=wire.Window(start="2026-01-01T00:00:00Z", end="2026-01-01T00:01:00Z"),
        models={"digits": wire.ModelTelemetry(manifest="ab" * 32, requests=5, failed=0)},
    )

    for _ in range(2):
        world.say("cam-1", event)
        world.say("cam-1", telemetry)

    with world.server.db.read() as session:
        events = session.scalars(select(DeviceEvent).where(DeviceEvent.kind == "event")).all()
        windows = session.scalars(select(TelemetryRow)).all()
    assert [one.phase for one in events] == ["fetching", "committed"]
    assert [one.requests for one in windows] == [5]
    assert world.states(rollout) == {"cam-1": "committed"}


def test_hello_and_state_make_the_twin(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1", site="lab")
    hello = Hello(
        at="1970-01-01T00:00:09Z",
        boot_id="b1",
        agent=AgentInfo(version="0.1.0", python="3.11", arch="aarch64", os="linux"),
        profiles=("rpi4", "generic-arm64"),
        delta_formats=("bsdiff4",),
        tags={"site": "forged", "room": "7"},
    )

    world.say("cam-1", hello)
    world.runs("cam-1", "1.0.0")

    with world.server.db.read() as session:
        device = session.get_one(Device, "cam-1")
        note = session.scalars(select(DeviceEvent).where(DeviceEvent.kind == "hello")).one()
    assert device.profiles == ["rpi4", "generic-arm64"]
    assert device.tags == {"site": "lab"}
    assert device.models["digits"]["active"]["version"] == "1.0.0"
    assert note.reported_at is None  # a clock in 1970 is no time


def test_last_will_marks_offline_but_never_overwrites_models_nor_a_later_boot(
    world: World,
) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1")
    world.runs("cam-1", "1.0.0")

    world.say("cam-1", State(at=rfc3339(utcnow()), boot_id="older-boot", online=False))
    with world.server.db.read() as session:
        assert session.get_one(Device, "cam-1").online
    world.say("cam-1", State(at=rfc3339(utcnow()), boot_id="boot", online=False))

    with world.server.db.read() as session:
        device = session.get_one(Device, "cam-1")
    assert not device.online
    assert "digits" in device.models


def test_strangers_and_revoked_devices_are_not_heard(world: World) -> None:
    world.add("cam-1", "gone")
    with world.server.db.write() as session:
        session.get_one(Device, "gone").revoked_at = utcnow()
    state = State(at=rfc3339(utcnow()), boot_id="b", online=True)

    assert not world.say("nobody", state)
    assert not world.say("gone", state)
    assert not world.say("cam-1", state, tenant="other")
    with pytest.raises(MessageError):
        ingest.parse(Topics("default", "cam-1").down("desired"), state.to_bytes())
    with pytest.raises(MessageError):
        ingest.parse(Topics("default", "cam-1").up("state"), b"{}")


def test_transfer_evidence_is_kept_with_the_update(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1")
    rollout = world.create("1.0.0", strategy="all")
    world.tick()

    evidence = {"transfer": {"bytes": 300, "full_bytes": 9000, "source": "mqtt", "patch": True}}
    world.report("cam-1", rollout, "verifying", evidence=evidence)
    world.report("cam-1", rollout, "testing", evidence={"golden": {"passed": True}})

    with world.server.db.read() as session:
        update = session.scalars(select(DeviceUpdate)).one()
    assert (update.transferred_bytes, update.full_bytes) == (300, 9000)
    assert update.evidence.keys() == {"transfer", "golden"}


# -- sources and the director ----------------------------------------------------------------------


def _plan(world: World, device: str) -> sources.Plan:
    with world.server.db.write() as session:
        newest = assign.latest(session, device)
        assert newest is not None
        return sources.plan(session, session.get_one(Device, device), newest, ask=True)


def _model_file(world: World, version: str) -> str:
    with world.server.db.read() as session:
        variant = session.scalars(
            select(Variant).where(Variant.manifest_sha256 == world.manifest(version))
        ).one()
        return next(file.sha256 for file in variant.files if file.role == "model")


def _hello(world: World, device: str, *formats: str) -> None:
    world.say(
        device,
        Hello(
            at=rfc3339(utcnow()),
            boot_id="boot",
            agent=AgentInfo(version="0.1.0", python="3.11", arch="aarch64", os="linux"),
            profiles=("rpi4",),
            delta_formats=formats,
        ),
    )


def test_patches_start_from_the_reported_digest_in_a_format_the_device_knows(
    world: World,
) -> None:
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.add("cam-1", "plain")
    for device, formats in (("cam-1", ("bsdiff4", "from-the-future")), ("plain", ())):
        _hello(world, device, *formats)
        world.runs(device, "1.0.0", model=_model_file(world, "1.0.0"))
    world.create("1.1.0", strategy="all")
    world.tick()

    plan, without = _plan(world, "cam-1"), _plan(world, "plain")

    assert [(one.base_sha256, one.format, one.state) for one in plan.pending] == [
        (_model_file(world, "1.0.0"), "bsdiff4", "queued")
    ]
    assert without.pending == ()
    assert {one.role for one in plan.sources} == {"manifest", "model", "labels"}
    assert len(_plan(world, "cam-1").pending) == 1  # asked for once


def test_three_failed_patches_lead_to_full_files_until_the_next_commit(world: World) -> None:
    world.publish("1.0.0", 1)
    world.publish("1.1.0", 2)
    world.add("cam-1")
    _hello(world, "cam-1", "bsdiff4")
    world.runs("cam-1", "1.0.0", model=_model_file(world, "1.0.0"))
    rollout = world.create("1.1.0", strategy="all")
    world.tick()

    for _ in range(2):
        world.report("cam-1", rollout, "fetching", previous_phase="patching")
    assert _plan(world, "cam-1").pending
    world.report("cam-1", rollout, "failed", previous_phase="patching")
    assert not _plan(world, "cam-1").pending
    world.report("cam-1", rollout, "committed")

    assert _plan(world, "cam-1").pending


def test_director_signs_once_per_counter_and_renews_before_the_end(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add("cam-1")
    world.create("1.0.0", strategy="all")
    world.tick()
    signer = world.server.keystore("default").signer("director")
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    with world.server.db.write() as session:
        newest = assign.latest(session, "cam-1")
        assert newest is not None
        director.sign(newest, signer, now)
        first = newest.document
        director.sign(newest, signer, now + timedelta(days=1))
        again = assign.renew(session, "cam-1", now, "old")
        root = trust_state.repository_of(session, "default").root

    assert first is not None
    assert newest.document == first
    document = verify_assignment(root, first)
    assert (document.device, document.counter, document.tenant) == ("cam-1", 1, "default")
    assert [one.path for one in document.targets] == ["digits/1.0.0/rpi4/manifest.json"]
    assert not director.is_due(newest, now + timedelta(days=1))
    assert director.is_due(newest, now + timedelta(days=20))
    assert again is not None
    assert (again.counter, again.targets, again.rollouts) == (2, newest.targets, newest.rollouts)


def test_groups_and_ids_are_told_in_order(world: World) -> None:
    world.publish("1.0.0", 1)
    world.add(*(f"cam-{i}" for i in range(4)))
    rollout = world.create("1.0.0", groups=[{"name": "all", "devices": ["cam-3", "cam-0"]}])
    with world.server.db.read() as session:
        loaded = engine.ledger.load(session, session.get_one(Rollout, rollout))
        groups = session.scalars(select(RolloutGroup)).all()

    assert [one.device for one in loaded.view.groups[0].targets] == ["cam-3", "cam-0"]
    assert [group.name for group in groups] == ["all"]
