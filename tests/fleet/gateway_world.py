"""Broker and gateways as processes, and devices that speak the wire with a plain MQTT client."""

import queue
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mqtt_clients import Client, Identity, PartProcess, enrol, wait_for

from edgec_bundle.archive import open_bundle
from edgec_bundle.digest import sha256_hex
from edgec_bundle.messages import (
    AgentInfo,
    Desired,
    Hello,
    Reply,
    Request,
    Source,
    bitmap_of,
    parse_topic,
    rfc3339,
)
from edgec_bundle.store import DEFAULT_BLOCK_BYTES
from edgec_fleet import audit
from edgec_fleet.db.schema import utcnow
from edgec_fleet.registry import publish
from edgec_fleet.rollout import control, engine
from edgec_fleet.server import Server

OPERATOR = audit.Actor("olga")
SEED = Random(1).randbytes(300 << 10)  # three blocks


@dataclass
class Fleet:
    """Broker and gateway as processes; the engine ticks when the test says so."""

    server: Server
    folder: Path
    bundles: Any
    parts: dict[str, PartProcess] = field(default_factory=dict)
    _models: int = 0

    @property
    def port(self) -> int:
        return self.server.settings.mqtt.port

    def start(self, name: str) -> None:
        log = self.folder / f"{name}-{time.monotonic_ns()}.log"
        self.parts[name] = PartProcess(f"edgec_fleet.{name}", self.server.settings, log)

    def new_model(self) -> str:
        self._models += 1
        return f"model-{self._models}"

    def publish(self, model: str, version: str, number: int, content: bytes) -> bytes:
        """Publish a release for rpi4; return the bytes of its model file."""
        path = self.bundles.make(version, number, "rpi4", model, content)
        taken = publish.take(self.server, [path])
        with self.server.db.write() as session:
            publish.publish(self.server, session, "default", taken, None, OPERATOR)
        return open_bundle(path).read("model")

    def device(self, name: str) -> "Device":
        return Device(self, enrol(self.server, self.folder / "ids", name))

    def roll_out(self, model: str, version: str, *devices: str) -> str:
        with self.server.db.write() as session:
            order = {
                "model": model,
                "version": version,
                "groups": [{"name": "all", "devices": list(devices)}],
            }
            rollout = control.create(session, "default", order, OPERATOR)
        engine.tick_all(self.server.db)
        return rollout.id


class Device:
    """A device that speaks the wire with a plain MQTT client."""

    def __init__(self, fleet: Fleet, identity: Identity) -> None:
        self.fleet, self.identity = fleet, identity
        self.client = Client(fleet.port, identity)
        self.client.connected().subscribe(identity.topics.down_filter)

    @property
    def name(self) -> str:
        return self.identity.device

    def say(self, message: Any) -> None:
        topic = self.identity.topics.up(message.KIND)
        self.client.publish(topic, message.to_bytes(), retain=message.KIND == "state")

    def hello(self, *formats: str) -> None:
        agent = AgentInfo(version="0.1.0", python="3.11", arch="aarch64", os="linux")
        self.say(
            Hello(
                at=rfc3339(utcnow()),
                boot_id="b1",
                agent=agent,
                profiles=("rpi4",),
                delta_formats=formats,
            )
        )

    def desired(self, model: str) -> Desired:
        """Wait for a `desired` that has sources for this model."""
        while True:
            topic, payload, _ = self.client.next()
            if topic == self.identity.topics.down("desired"):
                found = Desired.from_bytes(payload)
                if any(source.model == model for source in found.sources):
                    return found

    def ask(self, digest: str, *wanted: int, block_bytes: int = DEFAULT_BLOCK_BYTES) -> str:
        request = Request(
            at=rfc3339(utcnow()),
            digest=digest,
            first=wanted[0],
            bitmap=bitmap_of(wanted, wanted[0]),
            block_bytes=block_bytes,
        )
        self.say(request)
        return request.id

    def fetch(self, digest: str, size: int) -> bytes:
        """Fetch a blob in blocks, asking again for what did not come."""
        self.client.subscribe(self.identity.topics.blob_filter(digest), qos=0)
        count = -(-size // DEFAULT_BLOCK_BYTES)
        found: dict[int, bytes] = {}

        def complete() -> bool:
            missing = [block for block in range(count) if block not in found]
            if missing:
                self.ask(digest, *missing)
            try:
                while len(found) < count:
                    topic, payload, _ = self.client.next(1)
                    parsed = parse_topic(topic)
                    if getattr(parsed, "sha256", None) == digest:
                        found[parsed.block] = payload  # type: ignore[union-attr]
            except queue.Empty:
                return False
            return True

        wait_for(complete, f"blob {digest}")
        data = b"".join(found[block] for block in range(count))
        assert sha256_hex(data) == digest
        return data

    def refusal(self) -> Reply:
        while True:
            topic, payload, _ = self.client.next()
            if topic == self.identity.topics.down("reply"):
                return Reply.from_bytes(payload)

    def close(self) -> None:
        self.client.close()


def source(desired: Desired, role: str) -> Source:
    return next(one for one in desired.sources if one.role == role)
