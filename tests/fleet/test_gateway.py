"""The gateway as a process beside a real broker: devices, blocks, patches, kills."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from fleet_bundles import Bundles
from free_ports import free_port
from gateway_world import SEED, Device, Fleet, source
from mqtt_clients import Client, PartProcess, wait_for
from sqlalchemy import select

from edgec_bundle.delta import apply_patch
from edgec_bundle.digest import sha256_hex
from edgec_bundle.messages import (
    Deployed,
    Event,
    ModelState,
    Request,
    State,
    bitmap_of,
    blob_topic,
    rfc3339,
)
from edgec_bundle.store import DEFAULT_BLOCK_BYTES, BytesReader
from edgec_bundle.trust.device import verify_offer
from edgec_bundle.trust.state import TrustState
from edgec_fleet._child import command
from edgec_fleet.broker import choice
from edgec_fleet.db.schema import Assignment, DeviceEvent, DeviceUpdate, Part, utcnow
from edgec_fleet.errors import FleetError, SettingsError
from edgec_fleet.gateway import __main__ as gateway_process
from edgec_fleet.gateway import blocks
from edgec_fleet.gateway.duty import LIVES, at_work
from edgec_fleet.gateway.link import Broker as BrokerUrl
from edgec_fleet.gateway.turn import Turn
from edgec_fleet.gateway.wants import Pace, Wants
from edgec_fleet.process import Process
from edgec_fleet.registry import trust_state
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    template: Settings = request.getfixturevalue("sqlite_template").settings
    folder = tmp_path_factory.mktemp("gateway")
    shutil.copytree(template.dir, folder / "fleet")
    settings = replace(
        template,
        dir=folder / "fleet",
        mqtt=Address("127.0.0.1", free_port()),
        broker="mosquitto" if choice.find_mosquitto() else "amqtt",
    )
    (folder / "bundles").mkdir()
    with closing(Server.open(settings)) as server:
        made = Fleet(server, folder, Bundles(folder / "bundles"))
        try:
            made.start("broker")
            made.start("gateway")
            yield made
        finally:
            for part in reversed(made.parts.values()):
                part.stop()


def test_device_receives_a_signed_assignment_and_fetches_every_blob_that_it_names(
    fleet: Fleet,
) -> None:
    model = fleet.new_model()
    content = fleet.publish(model, "1.0.0", 1, SEED)
    device = fleet.device("walker")
    device.hello()
    rollout = fleet.roll_out(model, "1.0.0", "walker")

    desired = device.desired(model)
    metadata = device.fetch(desired.metadata.sha256, desired.metadata.bytes)
    with fleet.server.db.read() as session:
        root = trust_state.first_root(session, "default")
    offer, _ = verify_offer(
        TrustState.initial(root),
        director=desired.director,
        metadata_set=metadata,
        tenant="default",
        device="walker",
        now=utcnow(),
    )
    file = source(desired, "model")

    assert [target.model for target in offer.targets] == [model]
    assert desired.rollouts == {model: rollout}
    manifest = source(desired, "manifest")
    assert device.fetch(manifest.sha256, manifest.bytes)
    assert manifest.sha256 == offer.targets[0].sha256
    assert file.bytes > 2 * DEFAULT_BLOCK_BYTES
    assert device.fetch(file.sha256, file.bytes) == content
    with fleet.server.db.read() as session:
        newest = session.get_one(Assignment, ("walker", offer.counter))
    assert newest.published_at is not None
    device.close()


def test_wanted_blocks_reach_all_who_asked(fleet: Fleet) -> None:
    model = fleet.new_model()
    fleet.publish(model, "1.0.0", 1, SEED)
    devices = [fleet.device(f"twin-{i}") for i in range(3)]
    for device in devices:
        device.hello()
    fleet.roll_out(model, "1.0.0", *(device.name for device in devices))
    digests = {source(device.desired(model), "model").sha256 for device in devices}
    (digest,) = digests
    for device in devices:
        device.client.subscribe(device.identity.topics.blob_filter(digest), qos=0)

    for device in devices:
        device.client.client.publish(
            device.identity.topics.up("request"),
            Request(
                at=rfc3339(utcnow()),
                digest=digest,
                first=0,
                bitmap=bitmap_of((0, 1, 2), 0),
                block_bytes=DEFAULT_BLOCK_BYTES,
            ).to_bytes(),
            1,
        )

    for device in devices:
        wanted = {device.identity.topics.blob(digest, block) for block in range(3)}
        topics: list[str] = []

        def complete(device: Device = device, topics: list[str] = topics) -> bool:
            topics += [topic for topic, _, _ in _drain(device.client) if "/blob/" in topic]
            return len(set(topics)) == 3

        wait_for(complete, "three blocks")
        assert set(topics) == wanted
        device.close()


def _drain(client: Client) -> list[tuple[str, bytes, bool]]:
    found = []
    while not client.received.empty():
        found.append(client.received.get_nowait())
    return found


def test_blob_that_is_not_assigned_to_the_device_is_refused(fleet: Fleet) -> None:
    model = fleet.new_model()
    fleet.publish(model, "1.0.0", 1, SEED)
    owner, other = fleet.device("owner"), fleet.device("other-one")
    owner.hello()
    other.hello()
    fleet.roll_out(model, "1.0.0", "owner")
    digest = source(owner.desired(model), "model").sha256
    other.client.subscribe(other.identity.topics.blob_filter(digest), qos=0)

    asked = other.ask(digest, 0)
    refused = other.refusal()

    assert (refused.re, refused.ok) == (asked, False)
    assert refused.error is not None
    assert refused.error.code == "not_assigned"
    other.ask("ab" * 32, 0)
    assert other.refusal().error == refused.error  # an unknown blob looks the same
    owner.ask(digest, 0, block_bytes=4096)
    wrong_size = owner.refusal().error
    assert wrong_size is not None
    assert wrong_size.code == "block_size"
    owner.ask(digest, 999)
    past_end = owner.refusal().error
    assert past_end is not None
    assert past_end.code == "no_such_block"
    owner.close()
    other.close()


def test_update_comes_as_a_patch_from_the_digest_that_the_device_reports(fleet: Fleet) -> None:
    model = fleet.new_model()
    old = fleet.publish(model, "1.0.0", 1, _noise(1) + SEED)
    new = fleet.publish(model, "1.1.0", 2, _noise(1) + SEED + b"!")
    device = fleet.device("patched")
    device.hello("bsdiff4")
    deployed = Deployed(
        manifest="ab" * 32, version="1.0.0", release=1, files={"model": sha256_hex(old)}
    )
    device.say(
        State(
            at=rfc3339(utcnow()),
            boot_id="b1",
            online=True,
            models={model: ModelState(active=deployed, phase="committed")},
        )
    )
    _until_online(fleet, "patched", model)
    fleet.roll_out(model, "1.1.0", "patched")

    file = source(device.desired(model), "model")

    (patch,) = file.patches
    assert (patch.base, patch.format) == (sha256_hex(old), "bsdiff4")
    assert patch.bytes < len(new) / 10
    made = bytearray()

    class Out:
        def append(self, data: bytes) -> None:
            made.extend(data)

    apply_patch(
        BytesReader(device.fetch(patch.sha256, patch.bytes)),
        BytesReader(old),
        Out(),
        new_sha256=file.sha256,
        new_bytes=file.bytes,
    )
    assert bytes(made) == new
    device.close()


def _noise(seed: int) -> bytes:
    """200 kB that do not compress."""
    return b"".join(bytes.fromhex(sha256_hex(f"{seed}/{i}".encode())) for i in range(6400))


def _until_online(fleet: Fleet, name: str, model: str) -> None:
    from edgec_fleet.db.schema import Device as Row

    def known() -> bool:
        with fleet.server.db.read() as session:
            row = session.get_one(Row, name)
            return row.online and model in row.models and row.hello is not None

    wait_for(known, f"{name} to be known")


def test_nothing_that_devices_say_is_lost_while_the_gateway_is_killed(fleet: Fleet) -> None:
    model = fleet.new_model()
    fleet.publish(model, "1.0.0", 1, SEED)
    device = fleet.device("patient")
    device.hello()
    rollout = fleet.roll_out(model, "1.0.0", "patient")
    desired = device.desired(model)

    fleet.parts["gateway"].kill()
    for seq, phase in enumerate(("fetching", "verifying", "committed")):
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
    fleet.start("gateway")

    def heard() -> bool:
        with fleet.server.db.read() as session:
            phases = session.scalars(
                select(DeviceEvent.phase)
                .where(DeviceEvent.device_id == "patient", DeviceEvent.kind == "event")
                .order_by(DeviceEvent.id)
            ).all()
            state = session.scalars(
                select(DeviceUpdate.state).where(DeviceUpdate.rollout_id == rollout)
            ).one()
        return (phases, state) == (["fetching", "verifying", "committed"], "committed")

    wait_for(heard, "the events to arrive")
    device.close()


def test_a_second_gateway_stands_by_and_takes_over_from_one_that_is_killed(fleet: Fleet) -> None:
    model = fleet.new_model()
    fleet.publish(model, "1.0.0", 1, SEED)
    device = fleet.device("handed-over")
    second = PartProcess("edgec_fleet.gateway", fleet.server.settings, fleet.folder / "second.log")
    stood_by = "is at work" in second.log.read_text()
    device.hello()
    fleet.roll_out(model, "1.0.0", "handed-over")
    manifest = source(device.desired(model), "manifest")
    from_first = device.fetch(manifest.sha256, manifest.bytes)

    fleet.parts["gateway"].kill()
    fleet.parts["gateway"] = second
    from_second = device.fetch(manifest.sha256, manifest.bytes)

    assert stood_by
    assert from_second == from_first
    wait_for(lambda: second.log.read_text().count("ready ") == 2, "the second to be at work")
    device.close()


def test_desired_is_sent_again_at_hello_and_when_trust_metadata_was_renewed(fleet: Fleet) -> None:
    model, other = fleet.new_model(), fleet.new_model()
    fleet.publish(model, "1.0.0", 1, SEED)
    device = fleet.device("renewed")
    device.hello()
    fleet.roll_out(model, "1.0.0", "renewed")
    first = device.desired(model)

    device.hello()
    again = device.desired(model)
    fleet.publish(other, "1.0.0", 1, SEED)
    fresh = device.desired(model)

    assert again.director == first.director
    assert again.metadata == first.metadata
    assert fresh.director == first.director
    assert fresh.metadata != first.metadata
    device.close()


def test_a_gateway_takes_over_from_one_on_another_machine_that_is_heard_of_no_more(
    fleet: Fleet,
) -> None:
    fleet.parts.pop("gateway").stop()
    other = {"name": "gateway", "instance": "elsewhere:1", "detail": {}}
    with fleet.server.db.write() as session:
        beat_at = utcnow() + timedelta(hours=1)  # it lives on while this one starts
        session.add(Part(**other, started_at=utcnow() - timedelta(days=1), beat_at=beat_at))
    fleet.start("gateway")
    log = fleet.parts["gateway"].log
    wait_for(lambda: "gateway elsewhere:1 is at work" in log.read_text(), "it to stand by")

    with fleet.server.db.write() as session:
        session.get_one(Part, ("gateway", "elsewhere:1")).beat_at = utcnow() - LIVES

    wait_for(lambda: f"ready mqtts://127.0.0.1:{fleet.port}" in log.read_text(), "the takeover")


def test_whoever_gives_its_turn_away_goes_last(fleet: Fleet) -> None:
    first, second = Process("gateway"), Process("gateway")
    first.name = second.name = "gateway-of-a-test"
    first.instance, second.instance = "machine-1:1", "machine-2:1"
    turns, now = [], utcnow()
    for one in (first, second):
        turns.append(at_work(one, fleet.server.db, now))
    first.begin_anew()
    turns += [at_work(one, fleet.server.db, now) for one in (first, second)]

    assert turns == ["machine-1:1", "machine-1:1", "machine-2:1", "machine-2:1"]


@pytest.mark.full
def test_a_gateway_that_cannot_reach_the_broker_leaves_the_work_to_one_that_can(
    fleet: Fleet,
) -> None:
    fleet.parts.pop("gateway").stop()
    settings = replace(fleet.server.settings, broker=f"mqtts://127.0.0.1:{free_port()}")
    log = fleet.folder / "cut-off.log"
    with log.open("wb") as file:
        words = command(["-m", "edgec_fleet.gateway", *settings.to_arguments()])
        cut_off = subprocess.Popen(words, stdout=file, stderr=file)
    try:
        wait_for(lambda: "waiting for the broker" in log.read_text(), "it to wait")
        fleet.start("gateway")
        other = fleet.parts["gateway"].log
        ready = f"ready mqtts://127.0.0.1:{fleet.port}"
        wait_for(lambda: ready in other.read_text(), "the takeover")
        wait_for(lambda: "ready to take over" in log.read_text(), "it to stand by")
    finally:
        cut_off.terminate()
        cut_off.wait(60)

    model = fleet.new_model()
    content = fleet.publish(model, "1.0.0", 1, SEED)
    device = fleet.device("steadfast")
    device.hello()
    fleet.roll_out(model, "1.0.0", "steadfast")
    file = source(device.desired(model), "model")
    assert device.fetch(file.sha256, file.bytes) == content
    device.close()


def test_garbage_and_forged_messages_leave_the_gateway_at_work(fleet: Fleet) -> None:
    device = fleet.device("vandal")
    topics = device.identity.topics

    for payload in (b"", b"{}", b"\xff" * 100, b'{"v":1}', b"[" * 5000):
        for kind in ("hello", "state", "event", "telemetry", "request"):
            device.client.publish(topics.up(kind), payload)
    device.client.publish(f"{topics.up('hello')}/more", b"x")
    device.hello()

    def known() -> bool:
        from edgec_fleet.db.schema import Device as Row

        with fleet.server.db.read() as session:
            return session.get_one(Row, "vandal").hello is not None

    wait_for(known, "the one good message")
    device.close()


def test_ten_thousand_requests_of_one_device_do_not_keep_another_from_its_blocks(
    fleet: Fleet,
) -> None:
    model = fleet.new_model()
    content = fleet.publish(model, "1.0.0", 1, SEED)
    flooder, other = fleet.device("flooder"), fleet.device("bystander")
    flooder.hello()
    other.hello()
    fleet.roll_out(model, "1.0.0", "flooder", "bystander")
    digest = source(flooder.desired(model), "model").sha256
    file = source(other.desired(model), "model")
    topic = flooder.identity.topics.up("request")
    good = Request(
        at=rfc3339(utcnow()),
        digest=digest,
        first=0,
        bitmap=b"\xff" * 12 * 1024,
        block_bytes=DEFAULT_BLOCK_BYTES,
    ).to_bytes()
    hostile = (
        good,
        good.replace(digest.encode(), b"ab" * 32),
        good.replace(b'"first":0', b'"first":-1'),
        good.replace(b'"first":0', b'"first":99999999999999999999'),
        good[:-9000],
        b'{"bitmap":"' + b"A" * 30_000 + b'"}',
    )

    for number in range(10_000):
        flooder.client.client.publish(topic, hostile[number % len(hostile)], 0)

    assert other.fetch(file.sha256, file.bytes) == content
    flooder.close()
    other.close()


# -- without a broker ---------------------------------------------------------------------------


def test_one_request_is_bounded() -> None:
    request = Request(
        at=rfc3339(utcnow()),
        digest="ab" * 32,
        first=0,
        bitmap=b"\xff" * 12 * 1024,
        block_bytes=DEFAULT_BLOCK_BYTES,
    )

    found = blocks.check(request, 10 * 2**40, DEFAULT_BLOCK_BYTES)

    assert found == tuple(range(blocks.MAXIMUM_BLOCKS))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://broker", "mqtts://host:8883"),
        ("mqtt://far.example", "must speak TLS"),
        ("mqtts://", "mqtts://host:8883"),
        ("mqtts://h:notaport", "mqtts://host:8883"),
    ],
)
def test_broker_urls_are_checked(url: str, said: str) -> None:
    import ssl

    with pytest.raises(SettingsError, match=said):
        BrokerUrl.parse(url, ssl.create_default_context())


def test_blocks_of_other_blobs_go_out_when_the_disk_fails_under_one() -> None:
    class Failing(BytesReader):
        def pread(self, n: int, offset: int) -> bytes:
            raise OSError(5, "Input/output error")

    class Store:
        def open(self, digest: str) -> BytesReader:
            return Failing(b"") if digest == bad else BytesReader(b"weights")

    class Wire:
        sent: list[str] = []  # noqa: RUF012

        def send(self, topic: str, data: bytes) -> None:
            self.sent.append(topic)

        def wait(self, infos: list[None]) -> None:
            pass

    bad, good = "ab" * 32, "cd" * 32
    wants, wire = Wants(Pace(DEFAULT_BLOCK_BYTES, gather_s=0)), Wire()
    sender = blocks.BlockSender(wire, Store(), wants, DEFAULT_BLOCK_BYTES)  # type: ignore[arg-type]
    wants.add("one", "default", bad, (0,), 9)
    wants.add("one", "default", good, (0,), 9)
    sender.start()

    wait_for(lambda: wire.sent, "the other blob")

    assert wire.sent == [blob_topic("default", good, 0)]
    sender.close()


def test_gateway_that_went_deaf_ends_so_that_it_is_started_again() -> None:
    ended: Any = threading.Thread(name="edgec-intake")
    unused: Any = None
    turn = Turn(Process("gateway"), unused, unused)

    with pytest.raises(FleetError, match="edgec-intake"):
        gateway_process._loop(turn, unused, unused, ended, ended)
