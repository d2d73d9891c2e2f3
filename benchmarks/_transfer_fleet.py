"""A real fleet server for the transfer benchmark: broker, gateway and HTTPS as processes.

Releases are random bytes, so that a patch has the size it is asked to have; devices exist in the
database as enrolment would leave them, and say nothing: what matters here is their downloads.
"""

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from edgec_bundle.archive import Bundle, pack_bundle, write_bundle
from edgec_bundle.manifest import Manifest, Runtime, TensorSpec
from edgec_fleet import audit, pki
from edgec_fleet._child import command
from edgec_fleet.broker import choice
from edgec_fleet.db.schema import Device, Part, utcnow
from edgec_fleet.initialise import initialise
from edgec_fleet.registry import publish
from edgec_fleet.rollout import control, engine
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings

DEVICES = Path(__file__).parent / "_transfer_device.py"
PROFILE = "rpi4"
OPERATOR = audit.Actor("bench")


@dataclass
class Fleet:
    """One server and its devices."""

    server: Server
    folder: Path
    models: int = 0

    def enrol(self, count: int) -> None:
        """Make devices d0 ... with certificates."""
        key = ec.generate_private_key(ec.SECP256R1())  # one for all: making keys is not measured
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        for number in range(count):
            name = f"d{number}"
            issued = self.server.authority.issue_device(
                key.public_key(), tenant="default", device=name, days=30
            )
            (self.folder / f"{name}.pem").write_bytes(issued.pem.encode() + pem)
            with self.server.db.write() as session:
                session.add(
                    Device(
                        id=name,
                        tenant="default",
                        profiles=[PROFILE],
                        certificate_serial=issued.serial,
                        hello={"delta_formats": ["bsdiff4"]},
                        hello_at=utcnow(),
                    )
                )
                session.flush()
                pki.remember(session, issued, tenant="default", kind="device", subject=name)

    def release(self, devices: int, patch_bytes: int) -> str:
        """Publish an update whose patch has about `patch_bytes`; return the model's name.

        The first `devices` are said to run the release before it.
        """
        self.models += 1
        name, noise = f"model-{self.models}", random.Random(self.models)
        old = noise.randbytes(patch_bytes)
        first = self._publish(name, "1.0.0", 1, old)
        manifest = first.manifest
        active = {
            "manifest": manifest.digest,
            "version": "1.0.0",
            "release": 1,
            "files": {entry.role: entry.sha256 for entry in manifest.files},
        }
        names = [f"d{number}" for number in range(devices)]
        with self.server.db.write() as session:
            for row in session.scalars(select(Device).where(Device.id.in_(names))):
                row.models = {name: {"active": active}}
        self._publish(name, "1.1.0", 2, old + noise.randbytes(patch_bytes))
        return name

    def roll_out(self, model: str, devices: int) -> None:
        """Assign the update to the first `devices`."""
        names = [f"d{number}" for number in range(devices)]
        with self.server.db.write() as session:
            order = {
                "model": model,
                "version": "1.1.0",
                "groups": [{"name": "all", "devices": names}],
            }
            control.create(session, "default", order, OPERATOR)
        engine.tick_all(self.server.db)

    def _publish(self, name: str, version: str, release: int, content: bytes) -> Bundle:
        draft = Manifest(
            model=name,
            version=version,
            release=release,
            profile=PROFILE,
            format="tflite",
            runtime=Runtime("litert"),
            inputs=(TensorSpec("image", "uint8", (-1, 32, 32, 1)),),
            outputs=(TensorSpec("probabilities", "float32", (-1, 10)),),
        )
        contents = {"model": ("model.tflite", content), "labels": ("labels.txt", b"zero\none\n")}
        bundle = write_bundle(self.folder / f"{name}-{version}", draft, contents, {})
        packed = self.folder / f"{name}-{version}.edgeb"
        pack_bundle(bundle, packed, [])
        taken = publish.take(self.server, [packed])
        with self.server.db.write() as session:
            publish.publish(self.server, session, "default", taken, None, OPERATOR)
        return bundle

    def published_bytes(self) -> int:
        """Return how many bytes of blocks the gateway has published, by its heartbeat."""
        asked_at = utcnow()
        while True:
            with self.server.db.read() as session:
                part = session.scalars(select(Part).where(Part.name == "gateway")).one()
            if part.beat_at > asked_at:
                return int(part.detail["bytes"])
            time.sleep(0.2)

    def download(
        self, patch_bytes: int, devices: int, processes: int = 1, **options: object
    ) -> list[dict[str, Any]]:
        """Roll an update out to `devices` that are online, and let the agent's code fetch it.

        Returns: what each device reports; see `_transfer_device.py`.
        """
        model = self.release(devices, patch_bytes)
        settings = self.server.settings
        order = {
            "model": model,
            "mqtt": settings.mqtt.port,
            "http": f"https://{settings.devices}",
            "ca": str(self.server.authority.path),
            "folder": str(self.folder),
            **options,
        }
        shares = [range(devices)[at::processes] for at in range(min(processes, devices))]
        children = [
            subprocess.Popen(
                [sys.executable, DEVICES, json.dumps(order | {"devices": list(share)})],
                stdout=subprocess.PIPE,
                text=True,
            )
            for share in shares
        ]
        for child in children:
            assert child.stdout is not None
            child.stdout.readline()  # all of its devices are connected
        self.roll_out(model, devices)
        said = [child.communicate()[0] for child in children]
        if any(child.returncode for child in children):
            raise RuntimeError("a process of downloaders failed; it said why above")
        return [json.loads(line) for text in said for line in text.splitlines()]


@contextmanager
def running(folder: Path, **changes: object) -> Iterator[Fleet]:
    """Yield a fleet server in `folder` whose parts run."""
    settings = Settings(
        dir=folder / "fleet",
        mqtt=Address("127.0.0.1", _free_port()),
        devices=Address("127.0.0.1", _free_port()),
        broker="mosquitto" if choice.find_mosquitto() else "amqtt",
    )
    settings = replace(settings, **changes)  # type: ignore[arg-type]
    initialise(settings, password="only for this benchmark")
    modules = (
        ("edgec_fleet.broker",),
        ("edgec_fleet.gateway",),
        ("edgec_fleet.web", "devices"),
    )
    children = []
    try:
        for number, module in enumerate(modules):
            log = folder / f"part-{number}.log"
            with log.open("wb") as file:
                arguments = ["-m", *module, *settings.to_arguments()]
                children.append(subprocess.Popen(command(arguments), stdout=file, stderr=file))
            while "ready " not in log.read_text():
                if children[-1].poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.1)
        with closing(Server.open(settings)) as server:
            yield Fleet(server, folder)
    finally:
        for child in reversed(children):
            child.terminate()
            child.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
