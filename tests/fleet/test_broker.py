"""The broker's rules, on real Mosquitto and on amqtt, over real TLS."""

import queue
import shutil
import socket
import ssl
import struct
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from free_ports import free_port
from mqtt_clients import Client, Identity, PartProcess, enrol, is_refused, wait_for

from edgec_bundle.digest import sha256_hex
from edgec_bundle.messages import blob_topic
from edgec_fleet import blobs, pki
from edgec_fleet.broker import choice, mosquitto
from edgec_fleet.broker.policy import GATEWAY, Grant, Policy
from edgec_fleet.broker.pure import refusal_of
from edgec_fleet.broker.rules import Rules
from edgec_fleet.db.schema import Device, Part, Tenant, utcnow
from edgec_fleet.errors import SettingsError
from edgec_fleet.gateway.identity import ensure_files
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings

NOTHING_S = 0.7  # how long we listen for what must not come
METADATA = b"the metadata set"


@dataclass
class Broker:
    """A broker in its own process, with the fleet server it belongs to."""

    server: Server
    port: int
    folder: Path
    part: PartProcess

    def enrol(self, device: str, tenant: str = "default") -> Identity:
        """Enrol a device; its id is `device` and something that is new in each test."""
        unique = f"{device}-{uuid.uuid4().hex[:6]}"
        identity = enrol(self.server, self.folder, unique, tenant)
        self.settle()
        return identity

    def gateway(self) -> Client:
        ensure_files(self.server.authority, self.folder / "gateway")
        identity = Identity(self.server, self.folder, GATEWAY, "edgec")
        return Client(self.port, identity).connected()

    def give_blob(self, data: bytes, tenant: str = "default") -> str:
        """Make a blob that every device of the tenant may read (a metadata set)."""
        with self.server.db.write() as session:
            digest = blobs.put(session, self.server.store, tenant, data, "metadata")
        self.settle()
        return digest

    def settle(self) -> None:
        """Return when the broker has applied what the database says now."""
        after = utcnow().isoformat()

        def applied() -> bool:
            with self.server.db.read() as session:
                return any(
                    part.detail.get("policy_at", "") > after for part in session.query(Part).all()
                )

        wait_for(applied, "the broker to follow")


@pytest.fixture(params=["mosquitto", "amqtt"], scope="module")
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    if request.param == "mosquitto" and choice.find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    template: Settings = request.getfixturevalue("sqlite_template").settings
    folder = tmp_path_factory.mktemp(request.param)
    with start_broker(template, folder, request.param) as started:
        yield started


@contextmanager
def start_broker(template: Settings, folder: Path, kind: str) -> Iterator[Broker]:
    shutil.copytree(template.dir, folder / "fleet")
    port = free_port()
    settings = replace(template, dir=folder / "fleet", mqtt=Address("127.0.0.1", port), broker=kind)
    with closing(Server.open(settings)) as server:
        part = PartProcess("edgec_fleet.broker", settings, folder / "broker.log")
        try:
            yield Broker(server, port, folder / "ids", part)
        finally:
            part.stop()


def silent(client: Client) -> bool:
    try:
        client.next(NOTHING_S)
    except queue.Empty:
        return True
    return False


def test_device_and_gateway_talk_on_the_devices_own_topics(broker: Broker) -> None:
    cam = broker.enrol("cam-1")
    topics = cam.topics
    gateway = broker.gateway().subscribe(f"edgec/v1/+/dev/{cam.device}/up/#")
    device = Client(broker.port, cam).connected().subscribe(topics.down_filter)

    device.publish(topics.up("hello"), b"here")
    gateway.publish(topics.down("desired"), b"run this", retain=True)

    assert gateway.next() == (topics.up("hello"), b"here", False)
    assert device.next()[:2] == (topics.down("desired"), b"run this")
    late = Client(broker.port, cam).connected().subscribe(topics.down_filter)
    assert late.next() == (topics.down("desired"), b"run this", True)
    for client in (gateway, device, late):
        client.close()


def test_device_neither_reads_nor_writes_topics_of_another(broker: Broker) -> None:
    cam, spy = broker.enrol("cam-1"), broker.enrol("spy")
    other = cam.topics
    gateway = broker.gateway().subscribe("edgec/v1/+/dev/+/up/hello")
    victim = Client(broker.port, cam).connected().subscribe(other.down_filter)
    thief = Client(broker.port, spy).connected()
    thief.subscribe(other.down_filter, "#", "edgec/v1/+/dev/+/down/+", "edgec/v1/#", "$SYS/#")

    gateway.publish(other.down("desired"), b"secret", retain=True)
    thief.publish(other.up("hello"), b"forged")
    thief.publish(other.down("desired"), b"forged")
    thief.publish(spy.topics.up("hello"), b"own")

    assert victim.next()[1] == b"secret"  # so it did go round
    assert gateway.next()[1] == b"own"
    assert silent(thief)
    assert silent(gateway)
    assert silent(victim)
    for client in (gateway, victim, thief):
        client.close()


def test_device_cannot_fill_the_broker_with_retained_messages_on_topics_it_makes_up(
    broker: Broker,
) -> None:
    cam = broker.enrol("cam-1")
    device = Client(broker.port, cam).connected()
    gateway = broker.gateway().subscribe(f"edgec/v1/+/dev/{cam.device}/up/#")
    own = cam.topics.up("state")

    device.publish(f"edgec/v1/made-up/dev/{cam.device}/up/state", b"x", retain=True)
    device.publish(f"edgec/v1/default/dev/{cam.device}/up/made-up", b"x", retain=True)
    device.publish(own, b"state", retain=True)

    assert gateway.next()[:2] == (own, b"state")
    assert silent(gateway)
    for client in (gateway, device):
        client.close()


def test_retained_messages_of_others_stay_hidden_from_a_session_that_comes_back(
    broker: Broker,
) -> None:
    spy = broker.enrol("spy")
    cam = broker.enrol("cam-1")
    gateway = broker.gateway()
    gateway.publish(cam.topics.down("desired"), b"secret", retain=True)
    first = Client(broker.port, spy, clean=False).connected()
    first.subscribe(spy.topics.down_filter)
    first.close()

    again = Client(broker.port, spy, clean=False).connected()

    assert silent(again)
    for client in (gateway, again):
        client.close()


def test_blobs_are_read_by_digest_within_the_tenant_and_never_by_wildcard(broker: Broker) -> None:
    with broker.server.db.write() as session:
        session.merge(Tenant(id="other", title="other"))
    mine, theirs = broker.enrol("mine"), broker.enrol("theirs", "other")
    digest = broker.give_blob(METADATA)
    unassigned = sha256_hex(b"a model that nobody here was assigned")
    gateway = broker.gateway()
    reader = Client(broker.port, mine).connected()
    reader.subscribe(f"edgec/v1/default/blob/{digest}/+", qos=0)
    curious = Client(broker.port, theirs).connected()
    curious.subscribe("edgec/v1/default/blob/#", "edgec/v1/+/blob/+/+", qos=0)
    curious.subscribe(f"edgec/v1/default/blob/{digest}/+", qos=0)

    gateway.publish(blob_topic("default", unassigned, 0), b"weights", qos=0)
    gateway.publish(blob_topic("default", digest, 0), METADATA, qos=0)

    assert reader.next() == (blob_topic("default", digest, 0), METADATA, False)
    assert silent(curious)
    for client in (gateway, reader, curious):
        client.close()


def test_wildcard_over_blobs_of_the_own_tenant_brings_nothing_unassigned(broker: Broker) -> None:
    cam = broker.enrol("cam-1")
    unassigned = sha256_hex(b"a model for other hardware")
    gateway = broker.gateway()
    device = Client(broker.port, cam).connected()
    device.subscribe("edgec/v1/default/blob/+/+", f"edgec/v1/default/blob/{unassigned}/+", qos=0)

    gateway.publish(blob_topic("default", unassigned, 0), b"weights", qos=0)

    assert silent(device)
    for client in (gateway, device):
        client.close()


def test_certificate_of_one_device_never_takes_the_id_or_session_of_another(
    broker: Broker,
) -> None:
    cam, spy = broker.enrol("cam-1"), broker.enrol("spy")
    topics = cam.topics
    victim = Client(broker.port, cam).connected().subscribe(topics.down_filter)
    gateway = broker.gateway()

    is_refused(broker.port, spy, client_id=cam.device)  # Mosquitto lets it in, under its own name
    gateway.publish(topics.down("reply"), b"for cam-1 only")

    assert victim.next()[1] == b"for cam-1 only"
    assert victim.losses == 0
    for client in (victim, gateway):
        client.close()


def test_no_certificate_and_a_strangers_certificate_are_refused(
    broker: Broker, tmp_path: Path
) -> None:
    cam = broker.enrol("cam-1")
    pki.Authority.create(tmp_path / "stranger")
    bare = ssl.create_default_context(cafile=str(cam.ca))
    forged = Identity(
        replace(broker.server, settings=broker.server.settings), tmp_path, cam.device, "default"
    )
    stranger = pki.Authority.load(tmp_path / "stranger")
    issued = stranger.issue_device(
        forged.issued.certificate.public_key(),  # type: ignore[arg-type]
        tenant="default",
        device=cam.device,
        days=1,
    )
    key = forged.path.read_text().partition("-----BEGIN PRIVATE KEY-----")
    forged.path.write_text(issued.pem + key[1] + key[2])

    for context in (bare, forged.tls()):
        with pytest.raises((OSError, AssertionError)):
            Client(broker.port, cam, tls=context).connected()
    assert not is_refused(broker.port, cam)


def revoke(server: Server, device: str) -> None:
    with server.db.write() as session:
        session.get_one(Device, device).revoked_at = utcnow()
        pki.revoke(session, device, "lost")


def test_revoked_device_is_disconnected_and_cannot_come_back(broker: Broker) -> None:
    lost, kept = broker.enrol("lost"), broker.enrol("kept")
    topics = lost.topics
    victim = Client(broker.port, lost).connected().subscribe(topics.down_filter)
    bystander = Client(broker.port, kept).connected()

    revoke(broker.server, lost.device)

    wait_for(lambda: victim.losses, "the revoked device to be disconnected")
    broker.settle()
    assert is_refused(broker.port, lost)
    assert bystander.losses == 0
    assert not is_refused(broker.port, broker.enrol("another"))
    bystander.close()


def test_revoked_certificate_cannot_come_back_by_resuming_its_tls_session(broker: Broker) -> None:
    lost = broker.enrol("lost")
    context = lost.tls()
    session = tls_session(broker.port, context, lost.device)

    revoke(broker.server, lost.device)
    broker.settle()

    assert not answers_connect(broker.port, context, session, lost.device)


def test_replaced_certificate_is_refused_while_the_new_one_works(broker: Broker) -> None:
    old = broker.enrol("cam-1")
    new = Identity(broker.server, broker.folder, old.device, "default")
    with broker.server.db.write() as session:
        pki.remember(session, new.issued, tenant="default", kind="device", subject=old.device)
        pki.revoke(session, old.device, "renewed", keep=new.serial)
    broker.settle()

    assert is_refused(broker.port, old)
    assert not is_refused(broker.port, new)


def test_message_above_the_limit_does_not_pass(broker: Broker) -> None:
    cam = broker.enrol("cam-1")
    gateway = broker.gateway().subscribe(f"edgec/v1/+/dev/{cam.device}/up/#")
    device = Client(broker.port, cam).connected()

    device.client.publish(cam.topics.up("event"), bytes(mosquitto.LARGEST_MESSAGE + 4096), 1)

    wait_for(lambda: device.losses, "the connection to be closed")
    assert silent(gateway)
    gateway.close()


def test_last_will_is_published_and_retained_when_the_connection_breaks(broker: Broker) -> None:
    cam = broker.enrol("cam-1")
    topic = cam.topics.up("state")
    gateway = broker.gateway().subscribe(f"edgec/v1/+/dev/{cam.device}/up/#")
    device = Client(broker.port, cam, will=(topic, b"offline")).connected()

    device.client.socket().shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    assert gateway.next()[:2] == (topic, b"offline")
    gateway.close()
    device.client.loop_stop()


@pytest.mark.parametrize("kind", ["mosquitto", "amqtt"])
def test_broker_process_that_is_killed_leaves_no_broker_behind(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    template: Settings = request.getfixturevalue("sqlite_template").settings
    with start_broker(template, tmp_path, kind) as broker:
        assert listens(broker.port)

        broker.part.kill()

        wait_for(lambda: not listens(broker.port), "the port to be free")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def connect_packet(client_id: str) -> bytes:
    body = b"\x00\x04MQTT\x04\x02\x00\x14" + struct.pack(">H", len(client_id)) + client_id.encode()
    return bytes([0x10, len(body)]) + body


def tls_session(port: int, context: ssl.SSLContext, device: str) -> ssl.SSLSession | None:
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        context.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
    ):
        tls.settimeout(60)
        tls.sendall(connect_packet(device))
        assert tls.recv(4) == b"\x20\x02\x00\x00"
        return tls.session


def answers_connect(
    port: int, context: ssl.SSLContext, session: ssl.SSLSession | None, device: str
) -> bool:
    try:
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1", session=session) as tls,
        ):
            tls.settimeout(60)
            tls.sendall(connect_packet(device))
            return tls.recv(4) == b"\x20\x02\x00\x00"
    except OSError:
        return False


# -- without a broker ----------------------------------------------------------------------------

DIGEST = sha256_hex(b"x")
POLICY = Policy(
    {"cam": Grant("t", frozenset({DIGEST}))},
    frozenset({"gone"}),
    frozenset({"ab"}),
    frozenset({"t"}),
)


@pytest.mark.parametrize(
    ("client", "filter_", "allowed"),
    [
        ("cam", "edgec/v1/t/dev/cam/down/#", True),
        ("cam", f"edgec/v1/t/blob/{DIGEST}/+", True),
        ("cam", f"edgec/v1/t/blob/{sha256_hex(b'y')}/+", True),  # decided with each message
        ("cam", "edgec/v1/t/blob/+/+", False),
        ("cam", f"edgec/v1/other/blob/{DIGEST}/+", False),
        ("cam", f"edgec/v1/+/blob/{DIGEST}/+", False),
        ("cam", "edgec/v1/t/dev/+/down/#", False),
        ("cam", "#", False),
        ("gone", "edgec/v1/t/dev/gone/down/#", False),
        (GATEWAY, "edgec/v1/+/dev/+/up/#", True),
        (GATEWAY, "#", False),
    ],
)
def test_subscriptions(client: str, filter_: str, allowed: bool) -> None:
    assert Rules(POLICY).may_subscribe(client, filter_) is allowed


@pytest.mark.parametrize(
    ("client", "topic", "allowed"),
    [
        ("cam", "edgec/v1/t/dev/cam/up/state", True),
        ("new", "edgec/v1/t/dev/new/up/hello", True),  # enrolled a moment ago
        ("cam", "edgec/v1/made-up/dev/cam/up/state", False),
        ("cam", "edgec/v1/t/dev/cam/up/made-up", False),
        ("cam", "edgec/v1/t/dev/new/up/state", False),
        ("cam", "edgec/v1/t/dev/cam/down/desired", False),
        ("gone", "edgec/v1/t/dev/gone/up/state", False),
    ],
)
def test_publications(client: str, topic: str, allowed: bool) -> None:
    assert Rules(POLICY).may_publish(client, topic) is allowed


def test_a_blob_block_reaches_only_who_was_granted_its_digest() -> None:
    rules = Rules(POLICY)

    assert rules.may_receive("cam", blob_topic("t", DIGEST, 0))
    assert not rules.may_receive("cam", blob_topic("t", sha256_hex(b"y"), 0))
    assert not rules.may_receive("cam", blob_topic("other", DIGEST, 0))
    assert not rules.may_receive("gone", blob_topic("t", DIGEST, 0))


def test_revoked_serials_and_unknown_names_may_not_connect() -> None:
    rules = Rules(POLICY)

    assert rules.may_connect("cam", "cd")
    assert not rules.may_connect("cam", "ab")
    assert not rules.may_connect("gone", "cd")
    assert rules.may_connect(GATEWAY, "cd")


@pytest.mark.parametrize(
    ("packet", "refusal"),
    [
        (b"\x10\x10\x00\x04MQTT\x04\x02\x00\x14\x00\x03cam", None),
        (b"\x10\x10\x00\x04MQTT\x04\x02\x00\x14\x00\x03spy", 2),
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x14\x00\x00", 2),
        (b"\x10\x10\x00\x04MQTT\x05\x02\x00\x14\x00\x03cam", 1),
        (b"\x10\x02\x00\x04", 1),
    ],
)
def test_connect_packets_are_judged_before_amqtt_sees_them(
    packet: bytes, refusal: int | None
) -> None:
    assert refusal_of(packet, "cam") == refusal


def test_mosquitto_is_required_only_if_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(choice, "_SYSTEM", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = Settings(dir=tmp_path)

    assert choice.choose(settings) == ("amqtt", None)
    with pytest.raises(SettingsError, match="not installed"):
        choice.choose(replace(settings, broker="mosquitto"))
