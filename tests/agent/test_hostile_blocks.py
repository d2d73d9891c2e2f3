"""Blocks from somebody who may publish anything, for files that are here already: all in vain."""

import threading

from agent_process import committed, running
from downloading import DATA, DIGEST, PATIENT, SIZE, fetch, linked
from fleet_world import BLOCK, DEVICE, LONG_S, TENANT, V1, V2, patch, until, write_identity

from edgec_agent.download import Downloader
from edgec_agent.identity import IdentityFolder
from edgec_agent.interrupt import Interrupt
from edgec_agent.mqtt_source import MqttSource
from edgec_bundle.digest import sha256_hex
from edgec_bundle.messages import Topics
from edgec_bundle.store import FolderBlobStore

TOPICS = Topics(TENANT, DEVICE)


class Attacker:
    """Publishes hostile blocks of every blob, as soon as all of it was sent, and whenever asked."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.sent = 0
        self._came = {}  # digest -> blocks that went out
        self._serve, gateway._serve = gateway._serve, self.serve

    def serve(self, topic, request):
        """Serve as ever, then attack what is complete."""
        self._serve(topic, request)
        self._came.setdefault(request.digest, set()).update(request.blocks())
        self.attack()

    def attack(self):
        """Publish one hail of them; return what paho says of the last."""
        last = None
        for digest, blocks in list(self._came.items()):
            size = len(self.gateway.fleet.blobs[digest])
            count = -(-size // BLOCK)
            if len(blocks) < count:
                continue
            rest = size - (count - 1) * BLOCK
            for index in (*range(count), count, -1, 2**31 - 1):
                length = rest if index == count - 1 else BLOCK
                for payload in (b"\xee" * length, b"", b"\xee" * (length + 1)):
                    last = self.publish(digest, index, payload)
        return last

    def publish(self, digest, index, payload):
        topic = TOPICS.blob(digest, 0).rpartition("/")[0]
        self.sent += 1
        return self.gateway.client.publish(f"{topic}/{index}", payload, qos=0)


def test_a_file_stays_as_it_was_verified_while_others_come(
    tmp_path, broker, gateway, certificates, fleet
):
    write_identity(tmp_path / "device", certificates, fleet.root)
    store = FolderBlobStore(tmp_path / "blobs")
    other = DATA[::-1]
    fleet.blobs |= {DIGEST: DATA, sha256_hex(other): other}
    attacker = Attacker(gateway)
    downloader = Downloader(store, PATIENT, Interrupt())

    with linked(broker.port, IdentityFolder(tmp_path / "device")) as link:
        mqtt = MqttSource(lambda: link.is_connected, link.feed, PATIENT)
        fetch(downloader, mqtt)
        left = link.feed(DIGEST)  # as if somebody still listened
        attacker.attack()
        fetch(downloader, mqtt, digest=sha256_hex(other), size=SIZE)
        left.close()
        assert link.is_connected

    assert attacker.sent > 100
    assert store.read(DIGEST) == DATA
    assert store.read(sha256_hex(other)) == other
    assert store.partials() == ()


def test_an_update_is_applied_and_committed_under_a_hail_of_hostile_blocks(
    enrolled, fleet, blob_server, gateway
):
    first, second = fleet.release(*V1), fleet.release(*V2)
    fleet.offer_patch(first, second, patch(V1[0], V2[0]))
    attacker, over = Attacker(gateway), threading.Event()

    def hail():
        while not over.wait(0.05):
            if (last := attacker.attack()) is not None:
                last.wait_for_publish(LONG_S)  # no more at once than the broker takes

    thread = threading.Thread(target=hail, daemon=True)
    with running(enrolled) as one:
        thread.start()
        try:
            gateway.send(fleet.desired(first, http=blob_server.url))
            until(committed(gateway, first), what="1.0.0")
            gateway.send(fleet.desired(second, http=blob_server.url, rollout="2"))
            until(lambda: phase_of(gateway, second) == "probation", what="1.1.0 to serve")
        finally:
            over.set()
            thread.join()
        assert one.stop() == 0

    store = FolderBlobStore(enrolled / "blobs")
    for release in (first, second):
        for entry in release.shipped():
            assert sha256_hex(store.read(entry.sha256)) == entry.sha256
    fetched = next(e for e in gateway.events() if "transfer" in e.evidence and of(e, second))
    assert fetched.evidence["transfer"]["source"] == "mqtt"
    assert blob_server.requests == []
    assert attacker.sent > 100


def of(event, release):
    return event.manifest == release.digest


def phase_of(gateway, release):
    return next((event.phase for event in reversed(gateway.events()) if of(event, release)), None)
