"""The gateway as a process: `python -m edgec_fleet.gateway --dir DIR`."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy.exc import OperationalError

from edgec_fleet import process
from edgec_fleet.broker.choice import is_child
from edgec_fleet.broker.policy import GATEWAY
from edgec_fleet.errors import FleetError
from edgec_fleet.gateway import blocks
from edgec_fleet.gateway.identity import tls_context
from edgec_fleet.gateway.intake import Intake
from edgec_fleet.gateway.link import Broker, Link, UnsentError
from edgec_fleet.gateway.patches import PatchMaker
from edgec_fleet.gateway.publisher import Publisher
from edgec_fleet.process import Process
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings

STEP_S = 0.1
ANNOUNCE_AFTER_S = 10.0

logger = logging.getLogger(__name__)


def run(this: Process, server: Server) -> None:
    """Serve until told to stop."""
    broker = Broker.parse(broker_url(server.settings), tls_context(server))
    link = Link(broker, GATEWAY)
    publisher, wants = Publisher(server, link), blocks.Wants()
    intake = Intake(server, link, publisher, wants)
    sender = blocks.BlockSender(link, server.store, wants)
    maker = PatchMaker(server, workers=max(1, (os.cpu_count() or 2) // 2))
    link.start()
    try:
        if _connected(this, link, broker):
            intake.start()
            sender.start()
            this.ready(str(broker))
            _loop(this, server, publisher, maker, intake, sender)
    finally:
        for thread in (intake, sender):
            if thread.is_alive():
                thread.close()
        maker.close()
        link.close()


def broker_url(settings: Settings) -> str:
    """Return where the gateway connects: our own child, or the broker that was named."""
    if is_child(settings):
        mqtt = settings.mqtt
        local = replace(mqtt, host="127.0.0.1") if mqtt.host in Address.WILDCARDS else mqtt
        return f"mqtts://{local}"
    return settings.broker or ""


def _connected(this: Process, link: Link, broker: Broker) -> bool:
    """Wait for the broker; return False if told to stop before it came."""
    started, said = time.monotonic(), False
    while not link.ready.wait(0.1):
        if this.stopping.is_set():
            return False
        if not said and time.monotonic() - started > ANNOUNCE_AFTER_S:
            this.note(f"waiting for the broker at {broker}")
            said = True
    return True


def _loop(
    this: Process,
    server: Server,
    publisher: Publisher,
    maker: PatchMaker,
    intake: Intake,
    sender: blocks.BlockSender,
) -> None:
    while not this.stopping.wait(STEP_S):
        if dead := [thread.name for thread in (intake, sender) if not thread.is_alive()]:
            raise FleetError(f"{dead[0]} ended; its last words are above")  # and we start anew
        try:
            maker.step()
            publisher.step()
            this.detail = {
                "messages": intake.taken,
                "refused": intake.refused,
                "blocks": sender.sent_blocks,
                "bytes": sender.sent_bytes,
            }
            this.beat(server.db)
        except UnsentError as error:
            logger.info("%s", error)
            this.stopping.wait(1.0)
        except OperationalError as error:
            logger.warning("the database does not answer: %s", error.orig)
            this.stopping.wait(1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway. Returns the exit code."""
    return process.main("gateway", run, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
