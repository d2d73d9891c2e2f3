"""MQTT clients for tests: real certificates of the fleet CA, real TLS, paho."""

import queue
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.enums import CallbackAPIVersion

from edgec_bundle.messages import Topics
from edgec_fleet import pki
from edgec_fleet._child import command
from edgec_fleet.db.schema import Device
from edgec_fleet.server import Server
from edgec_fleet.settings import Settings

LONG_S = 120.0  # what surely happened by then, on a busy machine too


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = LONG_S) -> Any:
    """Return the first true result of `condition`; fail after a generous while."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


class Identity:
    """A device's certificate and key as files."""

    def __init__(self, server: Server, folder: Path, device: str, tenant: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        issued = server.authority.issue_device(
            key.public_key(), tenant=tenant, device=device, days=30
        )
        self.device, self.tenant, self.serial = device, tenant, issued.serial
        self.issued = issued
        self.ca = server.authority.path
        self.path = folder / f"{device}-{issued.serial[:8]}.pem"
        self.path.write_bytes(
            issued.pem.encode()
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    @property
    def topics(self) -> Topics:
        return Topics(self.tenant, self.device)

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.path)
        return context


def enrol(server: Server, folder: Path, device: str, tenant: str = "default") -> Identity:
    """Put a device into the database, as enrolment does, and return its identity."""
    identity = Identity(server, folder, device, tenant)
    with server.db.write() as session:
        session.add(
            Device(
                id=device,
                tenant=tenant,
                profiles=["rpi4"],
                certificate_serial=identity.serial,
            )
        )
        session.flush()
        pki.remember(session, identity.issued, tenant=tenant, kind="device", subject=device)
    return identity


class Client:
    """A connected client that collects what it receives."""

    def __init__(
        self,
        port: int,
        identity: Identity,
        client_id: str | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        will: tuple[str, bytes] | None = None,
        clean: bool = True,
    ) -> None:
        self.received: queue.Queue[tuple[str, bytes, bool]] = queue.Queue()
        self.grants: queue.Queue[Any] = queue.Queue()
        self.connects: list[Any] = []
        self.losses = 0
        self.client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or identity.device,
            protocol=mqtt.MQTTv311,
            clean_session=clean,
            reconnect_on_failure=False,
        )
        self.client.tls_set_context(tls or identity.tls())
        if will:
            self.client.will_set(will[0], will[1], qos=1, retain=True)
        self.client.on_connect = lambda _c, _u, _f, code, _p: self.connects.append(code)
        self.client.on_disconnect = lambda *_: setattr(self, "losses", self.losses + 1)
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: self.grants.put(codes)
        self.client.on_message = lambda _c, _u, m: self.received.put((m.topic, m.payload, m.retain))
        self.client.connect("127.0.0.1", port, 60)
        self.client.loop_start()

    def connected(self) -> "Client":
        wait_for(lambda: self.connects or self.losses, "an answer to CONNECT")
        assert self.connects, "the connection was closed"
        assert not self.connects[0].is_failure, self.connects
        return self

    def subscribe(self, *filters: str, qos: int = 1) -> "Client":
        for one in filters:
            self.client.subscribe(one, qos)
            self.grants.get(timeout=LONG_S)
        return self

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        sent = self.client.publish(topic, payload, qos, retain)
        sent.wait_for_publish(LONG_S)
        assert sent.is_published(), topic

    def next(self, timeout_s: float = LONG_S) -> tuple[str, bytes, bool]:
        return self.received.get(timeout=timeout_s)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def is_refused(port: int, identity: Identity, client_id: str | None = None) -> bool:
    """Return whether the broker lets this identity not in (TLS or CONNACK)."""
    try:
        client = Client(port, identity, client_id)
    except (OSError, ssl.SSLError):
        return True
    try:
        wait_for(lambda: client.connects or client.losses, "an answer")
        return not client.connects or client.connects[0].is_failure
    finally:
        client.client.loop_stop()


class PartProcess:
    """One part of the server as a real process, started the way `serve` starts it."""

    def __init__(
        self, module: str, settings: Settings, log: Path, prefix: Sequence[str] = ()
    ) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*prefix, *command(["-m", module, *settings.to_arguments()])],
                stdout=file,
                stderr=file,
            )
        wait_for(self._is_ready, f"{module} to be ready")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return "ready " in self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(LONG_S)
