"""The broker as a process: `python -m edgec_fleet.broker --dir DIR`.

Runs Mosquitto as a child, or amqtt where that is not installed, and keeps the broker's rules in
step with the database: new assignments, new devices, revoked devices.
"""

import logging
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from sqlalchemy import exists, select

from edgec_fleet import pki, process
from edgec_fleet.broker import choice, policy
from edgec_fleet.broker.mosquitto import CA, CRL, IDENTITY, BrokerError, Mosquitto, version
from edgec_fleet.broker.policy import Policy
from edgec_fleet.db.schema import Assignment
from edgec_fleet.db.session import AWAY, unanswered
from edgec_fleet.process import Process
from edgec_fleet.server import Server
from edgec_fleet.settings import Address
from edgec_fleet.web import tls_files

POLL_S = 0.2
SMALL_FLEET = 100  # devices; above that Mosquitto is the broker to have
RENEW_S = 86400.0  # CRL (valid for 30 days) and certificate are looked after daily

_UNPUBLISHED = exists().where(  # the gateway waits until their rights are in force
    Assignment.published_at.is_(None), Assignment.superseded_at.is_(None)
)

logger = logging.getLogger(__name__)


class Child(Protocol):
    """A broker that we run."""

    @property
    def exit_code(self) -> int | None:
        """Its exit code if it has ended."""

    def start(self, address: Address, policy: Policy) -> None:
        """Listen and hold to `policy`. Raises BrokerError."""

    def apply(self, policy: Policy, kick: Iterable[str]) -> None:
        """Hold to `policy` from now on, and end the connections of `kick`."""

    def stop(self) -> None:
        """End."""


def run(this: Process, server: Server) -> None:
    """Run the broker until told to stop. Raises BrokerError: it ended by itself."""
    folder = (server.settings.dir / "broker").resolve()
    _write_tls_files(server, folder)
    os.chdir(folder)
    kind, program = choice.choose(server.settings)
    broker: Child = Mosquitto(program, folder) if program else _pure(folder)
    with server.db.read() as session:
        current = policy.read(session)
        pki.write_crl(session, server.authority, folder / CRL)
    broker.start(server.settings.mqtt, current)
    name = version(program) if program else choice.AMQTT
    this.detail = {"broker": kind, "policy_at": _iso(current)}
    try:
        this.beat(server.db, now=True)
        this.ready(f"mqtts://{server.settings.mqtt} {name}")
        if kind == choice.AMQTT:
            why = "as configured" if server.settings.broker else "mosquitto is not installed"
            this.note(
                f"the broker is amqtt ({why}): fine for a demo on this machine and up to about "
                f"{SMALL_FLEET} devices; install mosquitto for more"
            )
        _follow(this, server, broker, current, folder)
    finally:
        broker.stop()


def _pure(folder: Path) -> Child:
    from edgec_fleet.broker.pure import PureBroker  # amqtt need not be loaded beside Mosquitto

    return PureBroker(folder)


def _follow(this: Process, server: Server, broker: Child, current: Policy, folder: Path) -> None:
    """Apply every change of the policy, and renew the files that grow old."""
    renewed, took_s = time.monotonic(), 0.0
    while not this.stopping.wait(max(POLL_S, 4 * took_s)):
        if broker.exit_code is not None:
            raise BrokerError(f"the broker ended with exit code {broker.exit_code}")
        started = time.monotonic()
        grown_old = started - renewed > RENEW_S
        try:
            with server.db.read() as session:
                wanted = policy.read(session)
                if grown_old or wanted.serials != current.serials:
                    pki.write_crl(session, server.authority, folder / CRL)
                awaited = session.scalar(select(_UNPUBLISHED))
            if grown_old:
                _write_tls_files(server, folder)
                renewed = started
            changed = wanted != current
            if grown_old or changed:
                broker.apply(wanted, wanted.revoked - current.revoked)
            current = wanted  # in force, though the database may not take that we say so
            this.detail["policy_at"] = _iso(wanted)
            this.beat(server.db, now=changed or bool(awaited))
            took_s = time.monotonic() - started
        except AWAY as error:
            logger.warning("%s", unanswered(error))


def _write_tls_files(server: Server, folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    files = tls_files("devices", server.settings)
    assert files is not None  # noqa: S101 (the devices' listener always speaks TLS)
    shutil.copyfile(files.ca, folder / CA)
    paths = dict.fromkeys((files.certificate, files.key))  # may be one file
    pki.write_private(folder / IDENTITY, b"".join(path.read_bytes() for path in paths))


def _iso(read: Policy) -> str:
    return read.read_at.isoformat() if read.read_at else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the broker. Returns the exit code."""
    return process.main("broker", run, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
