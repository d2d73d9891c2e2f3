"""Downloads over bad links: slow, cut, half-open, lossy; by a proxy, or by a clock of our own."""

import random
import threading
import time

import pytest
from downloading import DATA, DIGEST, SIZE, Watched, fetch, linked
from fleet_world import BLOCK, LONG_S, BlobServer, until, write_identity
from link_proxy import Line, Proxy, Trouble

from edgec_agent.config import Link as LinkConfig
from edgec_agent.config import Transfer
from edgec_agent.download import Downloader, SourceError
from edgec_agent.errors import FetchError, NotOfferedError, OfflineError
from edgec_agent.http_source import HttpSource
from edgec_agent.identity import IdentityFolder
from edgec_agent.interrupt import Interrupt
from edgec_agent.mqtt_source import MqttSource
from edgec_bundle.digest import sha256_hex
from edgec_bundle.store import FolderBlobStore

# paho leaves the socket of a handshake that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")

HASTY = Transfer(stall_s=0.6, stalls=2, rounds=8, connect_timeout_s=5.0)
SEEDS = range(2)


class World:
    """A device whose every byte goes through proxies over one line."""

    def __init__(self, folder, identity, broker, blob_server, line, config=HASTY):
        self.config = config
        self.line = line
        self.mqtt_proxy = Proxy(("127.0.0.1", broker.port), line)
        self.http_proxy = Proxy(("127.0.0.1", blob_server.server.server_address[1]), line)
        self.proxies = (self.mqtt_proxy, self.http_proxy)
        self.store = FolderBlobStore(folder / "blobs")
        self.downloader = Downloader(self.store, config, Interrupt())
        self.identity = identity
        self.http = HttpSource(
            f"https://127.0.0.1:{self.http_proxy.port}", identity.tls, self.config
        )

    def mqtt(self, link):
        return MqttSource(lambda: link.is_connected, link.feed, self.config)

    def linked(self):
        quick = LinkConfig(keepalive_s=2, backoff_s=0.1, longest_backoff_s=0.3)
        return linked(self.mqtt_proxy.port, self.identity, config=quick)

    def fetch(self, *sources, **what):
        """Fetch as the updater does: again after each failure, a bounded number of times."""
        for _ in range(40):
            try:
                return fetch(self.downloader, *sources, **what)
            except FetchError as error:
                failure = error
                time.sleep(0.1)
        raise failure

    def close(self):
        for proxy in self.proxies:
            proxy.close()


@pytest.fixture
def make_world(tmp_path, certificates, fleet, broker, blob_server, gateway):
    made = []

    def make(line=None, **more):
        fleet.blobs[DIGEST] = DATA
        write_identity(tmp_path / "device", certificates, fleet.root)
        identity = IdentityFolder(tmp_path / "device")
        made.append(World(tmp_path, identity, broker, blob_server, line or Line(), **more))
        return made[-1]

    yield make
    for world in made:
        world.close()


# -- slow --------------------------------------------------------------------------------------


def test_half_a_block_shows_that_the_connection_lives(make_world):
    world = make_world()
    with world.linked() as link:
        feed = link.feed(DIGEST)
        before = feed.received_bytes()
        world.line.when_down(BLOCK // 2, world.mqtt_proxy.freeze)
        assert feed.request([0], BLOCK)

        until(lambda: feed.received_bytes() > before + BLOCK // 4, what="bytes of a block")

        assert feed.next(0.0) is None
        world.mqtt_proxy.thaw()
        assert feed.next(LONG_S) == (0, DATA[:BLOCK])
        feed.close()


def test_https_that_is_cut_inside_a_block_goes_on(make_world):
    world = make_world(Line(200_000))
    world.line.when_down(SIZE // 3, world.http_proxy.cut)

    world.fetch(world.http)

    assert world.store.read(DIGEST) == DATA
    assert world.http_proxy.connections >= 2


# -- half-open ---------------------------------------------------------------------------------


def test_when_the_broker_vanishes_without_a_word_https_takes_over(make_world, gateway, blob_server):
    world = make_world()

    def vanish(digest, block):
        if block < 8:
            return False
        until(lambda: mqtt.has(*range(8)), what="what was sent")
        world.mqtt_proxy.freeze()
        return True

    gateway.lose = vanish
    with world.linked() as link:
        mqtt = Watched(world.mqtt(link))
        fetched = world.fetch(mqtt, world.http)

        assert world.store.read(DIGEST) == DATA
        assert fetched.sources == ("http", "mqtt")
        starts = [int(wanted.split("=")[1].split("-")[0]) for _, wanted in blob_server.requests]
        assert min(starts) >= 8 * BLOCK  # what came over MQTT stays
        until(lambda: not link.is_connected, what="the link to notice")  # by its keepalive


def test_when_https_vanishes_without_a_word_mqtt_takes_over(make_world, gateway, blob_server):
    world = make_world()

    def vanish(handler, data):
        handler.send_response(206)
        first = int(handler.headers["Range"].removeprefix("bytes=").split("-")[0])
        handler.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - first))
        handler.end_headers()
        handler.wfile.write(data[first : first + 12 * BLOCK])
        handler.wfile.flush()
        until(lambda: http.has(11), what="what was sent")
        world.http_proxy.freeze()

    blob_server.fault = vanish
    http = Watched(world.http)
    with world.linked() as link:
        fetched = world.fetch(http, world.mqtt(link))

    assert world.store.read(DIGEST) == DATA
    assert fetched.sources == ("http", "mqtt")
    asked = {block for request in gateway.of("request") for block in request.blocks()}
    assert min(asked) == 12


# -- everything at random ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_cuts_and_freezes_at_random_never_cost_what_is_here(make_world, seed):
    world = make_world(Line(150_000, delay_s=0.005))
    with world.linked() as link:
        trouble = Trouble(world.proxies, seed, calm_bytes=(40_000, 120_000), freeze_s=0.8)
        try:
            world.fetch(world.mqtt(link), world.http)
        finally:
            trouble.close()

    assert world.store.read(DIGEST) == DATA
    assert trouble.done


@pytest.mark.parametrize("seed", SEEDS)
def test_lost_doubled_shuffled_stale_and_wrong_blocks_do_no_harm(make_world, gateway, seed):
    world = make_world()
    chance, client, topics = random.Random(seed), gateway.client, []
    send = client.publish

    def unruly(topic, payload=None, **more):
        if "/blob/" not in topic:
            return send(topic, payload, **more)
        topics.append((topic, payload))
        chance.shuffle(topics)
        while topics and chance.random() < 0.8:
            late_topic, late = topics.pop()
            for _ in range(chance.choice((0, 1, 1, 1, 2))):
                send(late_topic, late, **more)
            prefix = late_topic.rpartition("/")[0]
            junk = chance.choice([b"", b"x", late + b"x", late[:-1]])
            send(f"{prefix}/{chance.choice([0, 5, 20, 21, 99, 2**31 - 1])}", junk, **more)
        return None

    client.publish = unruly
    try:
        with world.linked() as link:
            world.fetch(world.mqtt(link))
    finally:
        client.publish = send

    assert world.store.read(DIGEST) == DATA


# -- restarts ----------------------------------------------------------------------------------


def test_a_broker_that_restarts_in_the_middle_costs_nothing_that_had_come(
    make_world, broker, gateway
):
    world = make_world(Line(150_000))
    kept = []

    def restart():
        due.wait()
        broker.stop()
        until(lambda: not gateway.is_listening, what="the gateway to notice")
        kept.extend(block for block in range(21) if mqtt.has(block))
        before.append(len(gateway.messages))
        broker.start()

    due, before = threading.Event(), []
    restarter = threading.Thread(target=restart, daemon=True)
    restarter.start()
    with world.linked() as link:
        mqtt = Watched(world.mqtt(link))
        world.line.when_down(SIZE // 3, due.set)
        world.fetch(mqtt)
        restarter.join()

    assert world.store.read(DIGEST) == DATA
    asked = {
        block
        for _, kind, request in gateway.messages[before[0] :]
        if kind == "request"
        for block in request.blocks()
    }
    assert kept
    assert not asked & set(kept)


def test_a_server_that_is_away_is_waited_for_and_found_again(make_world):
    world = make_world(config=Transfer(rounds=1, connect_timeout_s=0.5))
    world.http_proxy.refuse()
    with pytest.raises(OfflineError):
        fetch(world.downloader, world.http)

    world.http_proxy.refuse(False)
    fetch(world.downloader, world.http)

    assert world.store.read(DIGEST) == DATA


def test_a_range_is_taken_up_at_its_last_byte(make_world, blob_server):
    def cut_inside(handler, data):
        first, _, last = handler.headers["Range"].removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1]
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        handler.send_response(206)
        handler.send_header("Content-Range", span)
        handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        handler.wfile.write(part[: BLOCK + 1000])
        handler.wfile.flush()
        handler.close_connection = True

    blob_server.fault = cut_inside
    world = make_world()

    fetch(world.downloader, world.http)

    assert world.store.read(DIGEST) == DATA
    starts = [
        int(wanted.removeprefix("bytes=").split("-")[0]) for _, wanted in blob_server.requests
    ]
    assert starts == list(range(0, SIZE, BLOCK + 1000))


# -- by a clock of our own ---------------------------------------------------------------------


class Clock(Interrupt):
    """Time passes when somebody waits."""

    def __init__(self):
        super().__init__()
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Scripted:
    """A source that answers with one error after the other, then with the blob."""

    def __init__(self, name, clock, *errors, lasts_s=0.0):
        self.name, self._clock, self._errors, self._lasts_s = name, clock, list(errors), lasts_s
        self.asked_at = []

    def is_ready(self):
        return True

    def pull(self, partial, interrupt):
        self.asked_at.append(self._clock.now)
        self._clock.now += self._lasts_s
        if self._errors:
            raise self._errors.pop(0)
        for index in partial.missing():
            partial.write_block(index, DATA[index * BLOCK : (index + 1) * BLOCK])


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def patient(tmp_path, clock):
    store = FolderBlobStore(tmp_path / "blobs")
    return Downloader(store, Transfer(rounds=3), clock, clock)


def busy(retry_after_s):
    return SourceError("HTTP 503", retry_after_s=retry_after_s)


def test_who_asks_for_time_is_given_it_and_the_other_way_is_used(patient, clock):
    http, mqtt = Scripted("http", clock, busy(60.0)), Scripted("mqtt", clock)

    fetched = fetch(patient, http, mqtt)

    assert fetched.sources == ("http", "mqtt")
    assert http.asked_at == [0.0]


def test_when_all_ask_for_time_it_ends_at_once_and_says_how_long_to_wait(patient, clock):
    with pytest.raises(FetchError, match="503") as caught:
        fetch(patient, Scripted("http", clock, busy(60.0)), Scripted("mqtt", clock, busy(90.0)))

    assert caught.value.retry_after_s == pytest.approx(60.0, abs=1)
    assert caught.value.cause == "unavailable"
    assert clock.now < 5


def test_a_network_that_is_away_is_no_failure_but_a_server_that_fails_is(patient, clock):
    away = [SourceError("refused", unreachable=True)] * 100
    with pytest.raises(OfflineError):
        fetch(patient, Scripted("http", clock, *away), Scripted("mqtt", clock, *away))

    broken = [SourceError("HTTP 500")] * 100
    with pytest.raises(FetchError) as caught:
        fetch(patient, Scripted("http", clock, *away), Scripted("mqtt", clock, *broken))
    assert not isinstance(caught.value, OfflineError)


def test_pauses_between_rounds_grow_and_end(patient, clock):
    source = Scripted("http", clock, *[SourceError("HTTP 500")] * 100)
    with pytest.raises(FetchError):
        fetch(patient, source)

    assert len(source.asked_at) == 3
    first, second = (b - a for a, b in zip(source.asked_at, source.asked_at[1:], strict=False))
    assert 0 < first < second * 2 + 0.1


class SlowFeed:
    """A line of so many bytes per second, over which all comes that was asked for, in order."""

    def __init__(self, clock, bytes_per_s):
        self.clock, self.bytes_per_s = clock, bytes_per_s
        self.asked, self._due = [], []  # block numbers; (when it is whole, block)

    def request(self, blocks, block_bytes):
        for block in blocks:
            begins = max([self.clock.now, *(at for at, _ in self._due)])
            self._due.append((begins + block_bytes / self.bytes_per_s, block))
        self.asked += blocks
        return True

    def next(self, timeout_s):
        until_s = self.clock.now + timeout_s
        if not self._due or self._due[0][0] > until_s:
            self.clock.now = until_s
            return None
        at, block = self._due.pop(0)
        self.clock.now = max(self.clock.now, at)
        return block, DATA[block * BLOCK : (block + 1) * BLOCK]

    def received_bytes(self):
        return int(self.clock.now * self.bytes_per_s)

    def close(self):
        pass


def test_on_a_slow_line_no_block_is_asked_for_twice_though_each_takes_long(tmp_path, clock):
    config = Transfer()
    feed = SlowFeed(clock, BLOCK / (2 * config.stall_s))  # eight blocks: sixteen times a stall
    source = MqttSource(lambda: True, lambda digest: feed, config, clock)
    store = FolderBlobStore(tmp_path / "blobs")

    fetched = fetch(Downloader(store, config, clock, clock), source)

    assert store.read(DIGEST) == DATA
    assert fetched.sources == ("mqtt",)
    assert feed.asked == list(range(21))


class JunkFeed:
    """A feed that floods with everything but what is wanted."""

    def __init__(self, clock, junk, trickles):
        self.clock, self.junk, self.trickles = clock, junk, trickles
        self.requests = 0

    def request(self, blocks, block_bytes):
        self.requests += 1
        return True

    def next(self, timeout_s):
        self.clock.now += max(timeout_s, 0.01)
        return self.junk

    def received_bytes(self):
        return int(self.clock.now * 1000) if self.trickles else 0

    def close(self):
        pass


@pytest.mark.parametrize("junk", [None, (0, b"short"), (99, bytes(BLOCK)), (-1, b""), (0, b"")])
@pytest.mark.parametrize("trickles", [False, True])
def test_a_flood_of_junk_is_not_listened_to_for_ever(tmp_path, clock, junk, trickles):
    config = Transfer(rounds=1)
    feed = JunkFeed(clock, junk, trickles)
    source = MqttSource(lambda: True, lambda digest: feed, config, clock)
    downloader = Downloader(FolderBlobStore(tmp_path / "blobs"), config, clock, clock)

    with pytest.raises(FetchError, match="no block came in 3 requests"):
        fetch(downloader, source)

    patience_s = config.block_timeout_s if trickles else 1.5 * config.stall_s
    assert clock.now <= 3 * patience_s + 3
    assert feed.requests == 3


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "999999999999"}, 3600.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
        (
            {
                "Date": "Fri, 02 Jan 1970 00:00:00 GMT",
                "Retry-After": "Fri, 02 Jan 1970 00:02:00 GMT",
            },
            120.0,
        ),
    ],
)
def test_retry_after_is_understood_and_bounded(make_world, blob_server, headers, seconds):
    def refuse(handler, data):
        handler.send_response_only(503)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    blob_server.fault = refuse
    world = make_world(config=Transfer(rounds=1))

    with pytest.raises(FetchError, match="HTTP 503") as caught:
        fetch(world.downloader, world.http)

    if seconds is None:
        assert caught.value.retry_after_s is None
    else:
        assert caught.value.retry_after_s == pytest.approx(seconds, abs=2)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 416])
def test_a_definite_no_is_asked_for_once_only(make_world, blob_server, status):
    blob_server.fault = lambda handler, data: BlobServer.answer(handler, status, b"")
    world = make_world(config=Transfer(rounds=3))

    with pytest.raises(NotOfferedError, match=f"HTTP {status}: ") as caught:
        fetch(world.downloader, world.http)

    assert caught.value.cause == "not_offered"
    assert len(blob_server.requests) == 1


# -- the real thing, in real time --------------------------------------------------------------


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", ["mqtt", "http"])
def test_two_kilobytes_a_second_with_cuts_of_thirty_seconds(make_world, fleet, gateway, way):
    """Default settings, blocks of 128 KiB; the line is cut twice, half-open, for 30 s each."""
    data = random.Random(0).randbytes(2 * 131_072 + 1000)
    digest = sha256_hex(data)
    fleet.blobs[digest] = data
    line = Line(2000, delay_s=0.1)
    world = make_world(line, config=Transfer())
    over = threading.Event()

    def cut():
        for _ in range(2):
            if over.wait(60):
                return
            for proxy in world.proxies:
                proxy.freeze()
            over.wait(30)
            for proxy in world.proxies:
                proxy.thaw()

    cutter = threading.Thread(target=cut)
    with linked(world.mqtt_proxy.port, world.identity, config=LinkConfig()) as link:
        cutter.start()
        sources = (world.mqtt(link), world.http)
        world.fetch(
            *(sources if way == "mqtt" else sources[::-1]),
            digest=digest,
            size=len(data),
            block_bytes=131_072,
        )
        over.set()
    cutter.join()

    assert world.store.read(digest) == data
    assert line.moved[1] < len(data) + 3 * 131_072 + 50_000  # a block or so for each cut
