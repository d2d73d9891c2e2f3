"""One downloader, two ways: Mosquitto and HTTPS with real TLS, good days and bad ones."""

import shutil
import threading
import zipfile

import pytest
from downloading import (
    ASKS_AGAIN,
    BORES_SOON,
    DATA,
    DIGEST,
    DRIPPING,
    HASTY,
    PATIENT,
    Watched,
    fetch,
    linked,
)
from fleet_world import (
    BLOCK,
    DEVICE,
    TENANT,
    BlobServer,
    Certificates,
    until,
    write_identity,
)

from edgec_agent.config import Transfer
from edgec_agent.download import Downloader, SourceError
from edgec_agent.errors import (
    ConfigError,
    CorruptBlobError,
    FetchError,
    InterruptedWorkError,
    NotOfferedError,
    OfflineError,
)
from edgec_agent.http_source import HttpSource
from edgec_agent.identity import IdentityFolder
from edgec_agent.interrupt import Interrupt
from edgec_agent.mqtt_source import MqttSource
from edgec_agent.pack import open_pack
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import NoSpaceError
from edgec_bundle.messages import Topics
from edgec_bundle.store import FolderBlobStore


@pytest.fixture
def store(tmp_path):
    return FolderBlobStore(tmp_path / "blobs")


@pytest.fixture
def interrupt():
    return Interrupt()


@pytest.fixture
def downloader(store, interrupt):
    return Downloader(store, PATIENT, interrupt)


@pytest.fixture
def identity(tmp_path, certificates, fleet):
    write_identity(tmp_path / "device", certificates, fleet.root)
    return IdentityFolder(tmp_path / "device")


@pytest.fixture
def http(blob_server, identity, fleet):
    fleet.blobs[DIGEST] = DATA
    return HttpSource(blob_server.url, identity.tls, PATIENT)


@pytest.fixture
def bored_http(http, blob_server, identity):
    return HttpSource(blob_server.url, identity.tls, BORES_SOON)


@pytest.fixture
def link(broker, gateway, identity, fleet):
    fleet.blobs[DIGEST] = DATA
    with linked(broker.port, identity) as link:
        yield link


@pytest.fixture
def mqtt(link):
    return MqttSource(lambda: link.is_connected, link.feed, PATIENT)


@pytest.fixture
def hasty_mqtt(link):
    return MqttSource(lambda: link.is_connected, link.feed, HASTY)


@pytest.fixture
def asking_mqtt(link):
    return MqttSource(lambda: link.is_connected, link.feed, ASKS_AGAIN)


# -- HTTPS -------------------------------------------------------------------------------------


def test_a_blob_comes_over_https(downloader, http, store, blob_server):
    fetched = fetch(downloader, http)

    assert store.read(DIGEST) == DATA
    assert (fetched.bytes, fetched.sources) == (len(DATA), ("http",))
    assert len(blob_server.requests) == 1


def test_what_is_here_is_not_fetched(downloader, http, store, blob_server):
    store.put(DATA)

    assert fetch(downloader, http).bytes == 0
    assert blob_server.requests == []


def test_an_empty_blob_needs_no_server(downloader, http, store, blob_server):
    fetch(downloader, http, digest=sha256_hex(b""), size=0)

    assert store.read(sha256_hex(b"")) == b""
    assert blob_server.requests == []


def test_only_what_is_missing_is_asked_for_after_a_kill(downloader, http, store, blob_server):
    partial = store.begin(DIGEST, len(DATA), BLOCK)
    for index in (0, 1, 5):
        partial.write_block(index, DATA[index * BLOCK : (index + 1) * BLOCK])
    partial.close()

    fetch(downloader, http)

    assert store.read(DIGEST) == DATA
    ranges = [wanted for _, wanted in blob_server.requests]
    assert ranges == [f"bytes={2 * BLOCK}-{5 * BLOCK - 1}", f"bytes={6 * BLOCK}-{len(DATA) - 1}"]


def test_a_server_without_ranges_is_fine_too(downloader, http, store, blob_server):
    def whole(handler, data):
        BlobServer.answer(handler, 200, data)

    blob_server.fault = whole
    partial = store.begin(DIGEST, len(DATA), BLOCK)
    partial.write_block(3, DATA[3 * BLOCK : 4 * BLOCK])
    partial.close()

    fetch(downloader, http)

    assert store.read(DIGEST) == DATA


def test_a_connection_that_breaks_is_taken_up_where_it_broke(downloader, http, store, blob_server):
    def cut(handler, data):
        first = int((handler.headers["Range"] or "bytes=0-").removeprefix("bytes=").split("-")[0])
        part = data[first:]
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        handler.wfile.write(part[: 5 * BLOCK + 10])
        handler.wfile.flush()
        handler.close_connection = True

    blob_server.fault = cut

    fetch(downloader, http)

    assert store.read(DIGEST) == DATA
    assert len(blob_server.requests) == 5


def headers(status, **more):
    def answer(handler, data):
        BlobServer.answer(handler, status, data or b"", more)

    return answer


def short(handler, data):
    BlobServer.answer(handler, 200, data[:-1])


def shifted(handler, data):
    BlobServer.answer(
        handler, 206, data, {"Content-Range": f"bytes {BLOCK}-{len(data) - 1}/{len(data)}"}
    )


def hung_up(handler, data):
    handler.close_connection = True
    handler.connection.close()


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (headers(404), NotOfferedError, "HTTP 404"),
        (headers(403), NotOfferedError, "HTTP 403"),
        (headers(410), NotOfferedError, "HTTP 410"),
        (headers(503), FetchError, "HTTP 503"),
        (headers(302, Location="https://127.0.0.1:1/"), FetchError, "HTTP 302"),
        (headers(416), FetchError, "HTTP 416"),
        (headers(200, ETag='"another"'), FetchError, "another blob"),
        (short, FetchError, "expected"),
        (shifted, FetchError, "another range"),
        (hung_up, FetchError, "http: "),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_failure_of_the_server_has_its_own_outcome(
    downloader, http, store, blob_server, fault, error, words
):
    blob_server.fault = fault

    with pytest.raises(error, match=words):
        fetch(downloader, http)

    assert not store.has(DIGEST)


@pytest.mark.parametrize("fault", DRIPPING.values(), ids=DRIPPING)
def test_what_drips_is_not_waited_for_for_ever(downloader, bored_http, store, blob_server, fault):
    blob_server.fault = fault

    with pytest.raises(FetchError, match="longer than 2 s"):
        fetch(downloader, bored_http)

    assert not store.has(DIGEST)


def test_something_more_urgent_ends_the_wait_for_headers_too(
    downloader, http, blob_server, interrupt
):
    def urgent(handler, data):
        interrupt.set()
        DRIPPING["headers"](handler, data)

    blob_server.fault = urgent

    with pytest.raises(InterruptedWorkError):
        fetch(downloader, http)


def test_a_lie_of_the_right_size_is_thrown_away_whole(downloader, http, store, blob_server):
    blob_server.fault = lambda handler, data: bytes(len(data))

    with pytest.raises(CorruptBlobError) as caught:
        fetch(downloader, http)

    assert not caught.value.progressed
    assert not store.has(DIGEST)
    assert store.partials() == ()


def test_a_server_that_is_not_of_the_fleet_gets_nothing_to_say(
    downloader, store, blob_server, identity, tmp_path_factory, fleet
):
    other = Certificates(tmp_path_factory.mktemp("other"))
    (identity.path / "ca.pem").write_text(other.ca_pem)
    fleet.blobs[DIGEST] = DATA

    with pytest.raises(FetchError, match="certificate verify failed"):
        fetch(downloader, HttpSource(blob_server.url, identity.tls, PATIENT))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://", "https://host:bad", "x"])
def test_only_a_https_address_is_asked(downloader, identity, url):
    with pytest.raises(FetchError):
        fetch(downloader, HttpSource(url, identity.tls, PATIENT))


def test_without_any_way_it_waits(downloader, identity):
    with pytest.raises(OfflineError):
        fetch(downloader, HttpSource(None, identity.tls, PATIENT))
    with pytest.raises(OfflineError):
        fetch(downloader)


def test_something_more_urgent_ends_it_and_what_came_is_kept(
    downloader, http, store, blob_server, interrupt
):
    http = Watched(http)

    def trickle(handler, data):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: 4 * BLOCK])
        handler.wfile.flush()
        until(lambda: http.has(0), what="the first block")
        interrupt.set()
        handler.wfile.write(data[4 * BLOCK :])

    blob_server.fault = trickle

    with pytest.raises(InterruptedWorkError):
        fetch(downloader, http)

    interrupt.clear()
    blob_server.fault = None
    assert len(store.begin(DIGEST, len(DATA), BLOCK).missing()) < 21
    fetch(downloader, http)
    assert store.read(DIGEST) == DATA


def test_too_large_is_refused_before_anything_is_asked(store, interrupt, http, blob_server):
    downloader = Downloader(store, Transfer(largest_bytes=1000), interrupt)

    with pytest.raises(FetchError, match="larger than"):
        fetch(downloader, http)

    assert blob_server.requests == []


def test_no_room_is_said_before_anything_is_asked(downloader, http, blob_server, monkeypatch):
    real = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=4 << 20))

    with pytest.raises(NoSpaceError):
        fetch(downloader, http)

    assert blob_server.requests == []


# -- MQTT --------------------------------------------------------------------------------------


def test_a_blob_comes_over_mqtt(downloader, mqtt, store, gateway):
    fetched = fetch(downloader, mqtt)

    assert store.read(DIGEST) == DATA
    assert fetched.sources == ("mqtt",)
    asked = [request.blocks() for request in gateway.of("request")]
    assert asked[0] == tuple(range(8))  # a window at once, and never more than that ahead
    assert [block for blocks in asked for block in blocks] == list(range(21))


def test_lost_blocks_are_asked_for_again(downloader, asking_mqtt, store, gateway):
    lost = set()

    def lose_once(digest, block):
        if block % 3 == 0 and block not in lost:
            lost.add(block)
            return True
        return False

    gateway.lose = lose_once

    fetch(downloader, asking_mqtt)

    assert store.read(DIGEST) == DATA
    asked = [block for request in gateway.of("request") for block in request.blocks()]
    assert lost == set(range(0, 21, 3))
    assert all(asked.count(block) >= 2 for block in lost)


def test_blocks_of_the_wrong_size_are_left_out(downloader, asking_mqtt, store, gateway):
    spoiled = set()

    def cut_once(digest, block, data):
        if block == 2 and block not in spoiled:
            spoiled.add(block)
            return data[:-1]
        return data

    gateway.corrupt = cut_once

    fetch(downloader, asking_mqtt)

    assert store.read(DIGEST) == DATA


def test_a_blob_that_the_server_refuses_is_not_offered(downloader, mqtt):
    with pytest.raises(NotOfferedError, match="not_assigned"):
        fetch(downloader, mqtt, digest="f" * 64)


def test_a_silent_server_ends_in_a_failure(downloader, hasty_mqtt, gateway):
    gateway.silent = True

    with pytest.raises(FetchError, match="no block came"):
        fetch(downloader, hasty_mqtt)


def test_blocks_that_others_asked_for_are_taken_too(downloader, mqtt, link, store, gateway):
    """One publish serves all: the gateway sends everything after the first request."""
    real = gateway._serve

    def generous(topic, request):
        for block in range(21):
            gateway.client.publish(
                Topics(TENANT, DEVICE).blob(DIGEST, block),
                DATA[block * BLOCK : (block + 1) * BLOCK],
                qos=0,
            )

    gateway._serve = generous
    fetch(downloader, mqtt)
    gateway._serve = real

    assert store.read(DIGEST) == DATA
    assert sum(len(request.blocks()) for request in gateway.of("request")) <= 21


# -- changeover --------------------------------------------------------------------------------


def test_when_mqtt_falls_silent_https_takes_over_what_is_missing(
    downloader, hasty_mqtt, http, store, gateway, blob_server
):
    gateway.lose = lambda digest, block: block >= 8
    mqtt = Watched(hasty_mqtt)

    fetched = fetch(downloader, mqtt, http)

    assert store.read(DIGEST) == DATA
    assert fetched.sources == ("http", "mqtt")
    first = mqtt.left[0] * BLOCK
    assert [wanted for _, wanted in blob_server.requests] == [f"bytes={first}-{len(DATA) - 1}"]


def test_when_https_fails_mqtt_takes_over_what_is_missing(
    downloader, mqtt, http, store, gateway, blob_server
):
    def cut_once(handler, data):
        if len(blob_server.requests) > 1:
            BlobServer.answer(handler, 503, b"")
            return
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: 10 * BLOCK])
        handler.close_connection = True

    blob_server.fault = cut_once

    fetched = fetch(downloader, http, mqtt)

    assert store.read(DIGEST) == DATA
    assert fetched.sources == ("http", "mqtt")
    assert min(block for request in gateway.of("request") for block in request.blocks()) == 10


def test_a_broker_that_restarts_is_found_again(broker, gateway, identity, downloader, store, fleet):
    fleet.blobs[DIGEST] = DATA
    with linked(broker.port, identity) as link:
        first = link.generation
        broker.stop()
        until(lambda: not link.is_connected, what="the loss")
        assert link.publish("hello", b"{}") is None
        broker.start()
        until(lambda: link.generation > first, what="the next connection")
        until(lambda: gateway.is_listening, what="the gateway")

        fetch(downloader, MqttSource(lambda: link.is_connected, link.feed, PATIENT))

    assert store.read(DIGEST) == DATA


def test_what_was_retained_arrives_at_every_connection(broker, gateway, identity):
    gateway.send(b"one")
    found = []
    with linked(broker.port, identity, found):
        until(lambda: found == [b"one"])
        gateway.send(b"two")
        until(lambda: found == [b"one", b"two"])


def test_the_last_will_says_offline(broker, gateway, identity):
    with linked(broker.port, identity) as link:
        link._client.socket().close()  # the cable is cut

        will = until(lambda: gateway.of("state"), what="the last will")[0]

    assert will.online is False


def test_hostile_topics_and_payloads_do_not_end_the_link(broker, gateway, identity):
    found = []
    with linked(broker.port, identity, found) as link:
        down = Topics(TENANT, DEVICE).down("reply").rsplit("/", 1)[0]
        for topic, payload in (
            (f"{down}/reply", b"\xff\xfe"),
            (f"{down}/reply", b"[" * 10_000),
            (f"{down}/unheard-of", b"x"),
            (f"{down}/desired", b"last"),
        ):
            gateway.client.publish(topic, payload, qos=1)

        until(lambda: found == [b"last"])
        assert link.is_connected


# -- packs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_a_pack_is_a_source_like_any_other(downloader, store, tmp_path, packed):
    path = write_pack(tmp_path, {DIGEST: DATA}, packed)

    with open_pack(path) as pack:
        fetched = fetch(downloader, pack)
        assert pack.desired() == b"desired"

    assert store.read(DIGEST) == DATA
    assert fetched.sources == ("pack",)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (None, NotOfferedError),
        (DATA[:-1], NotOfferedError),
        (bytes(len(DATA)), CorruptBlobError),
        (DATA + b"more", None),  # what is beyond the signed size is not even read
    ],
)
def test_nothing_in_a_pack_is_believed_for_being_there(downloader, store, tmp_path, content, error):
    path = write_pack(tmp_path, {} if content is None else {DIGEST: content}, True)

    with open_pack(path) as pack:
        if error is None:
            fetch(downloader, pack)
        else:
            with pytest.raises(error):
                fetch(downloader, pack)

    assert store.has(DIGEST) == (error is None)


def test_what_is_no_pack_is_said_to_be_none(tmp_path):
    path = tmp_path / "pack.zip"
    path.write_bytes(b"PK\x03\x04 and then nothing")

    with pytest.raises(ConfigError, match="not a pack"), open_pack(path):
        pass
    with pytest.raises(ConfigError, match=r"no desired\.json"), open_pack(tmp_path) as pack:
        pack.desired()


def write_pack(folder, blobs, packed):
    if packed:
        with zipfile.ZipFile(folder / "pack.zip", "w") as archive:
            archive.writestr("desired.json", b"desired")
            for digest, data in blobs.items():
                archive.writestr(f"blobs/{digest}", data)
        return folder / "pack.zip"
    (folder / "pack" / "blobs").mkdir(parents=True)
    (folder / "pack" / "desired.json").write_bytes(b"desired")
    for digest, data in blobs.items():
        (folder / "pack" / "blobs" / digest).write_bytes(data)
    return folder / "pack"


def test_a_source_that_sends_nothing_for_ever_is_not_asked_for_ever(downloader):
    class Mute:
        name = "mute"
        turns = 0

        def is_ready(self):
            return True

        def pull(self, partial, interrupt):
            self.turns += 1

    mute = Mute()
    with pytest.raises(FetchError, match="sent nothing"):
        fetch(downloader, mute)
    assert mute.turns == 1


def test_two_sources_that_fail_in_turn_end_too(downloader):
    class Broken:
        def __init__(self, name):
            self.name, self.turns = name, 0

        def is_ready(self):
            return True

        def pull(self, partial, interrupt):
            self.turns += 1
            raise SourceError("broken")

    one, two = Broken("one"), Broken("two")
    with pytest.raises(FetchError, match="one: broken; two: broken"):
        fetch(downloader, one, two)
    assert (one.turns, two.turns) == (1, 1)


def test_two_downloads_of_one_blob_do_not_spoil_each_other(store, interrupt, http):
    others = [Downloader(FolderBlobStore(store.root), PATIENT, interrupt) for _ in range(2)]
    failures = []

    def work(downloader):
        try:
            fetch(downloader, http)
        except FetchError as error:  # busy: the other one is at it
            failures.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(failures) <= 1
    assert store.read(DIGEST) == DATA
