"""The gateway as a process: `python -m edgec_fleet.gateway --dir DIR`."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from edgec_fleet import process
from edgec_fleet.broker.choice import is_child
from edgec_fleet.broker.policy import GATEWAY
from edgec_fleet.db.schema import utcnow
from edgec_fleet.db.session import AWAY, unanswered
from edgec_fleet.errors import FleetError
from edgec_fleet.gateway import blocks
from edgec_fleet.gateway.duty import at_work
from edgec_fleet.gateway.identity import tls_context
from edgec_fleet.gateway.intake import Intake
from edgec_fleet.gateway.link import Broker, Link, UnsentError
from edgec_fleet.gateway.packets import PacketLimits, ask_maximum, fit
from edgec_fleet.gateway.patches import PatchMaker
from edgec_fleet.gateway.publisher import Publisher
from edgec_fleet.gateway.turn import LEASE_S, Turn
from edgec_fleet.gateway.wants import Pace, Wants
from edgec_fleet.process import Process
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings

STEP_S = 0.1
ANNOUNCE_AFTER_S = 10.0

logger = logging.getLogger(__name__)


def run(this: Process, server: Server) -> None:
    """Serve until told to stop; stand by while another gateway does."""
    while not this.stopping.is_set():
        if _stand_by(this, server):
            _serve(this, server)


def _stand_by(this: Process, server: Server) -> bool:
    """Return True when it is this gateway's turn, False if told to stop before."""
    said = None
    while not this.stopping.is_set():
        try:
            other = at_work(this, server.db, utcnow())
        except AWAY as error:
            logger.warning("%s", unanswered(error))
        else:
            if other == this.instance:
                return True
            if said != other:
                this.ready(f"to take over: gateway {other} is at work")
                said = other
        this.stopping.wait(1.0)
    return False


def _serve(this: Process, server: Server) -> None:
    """Do the work until told to stop, or until another gateway turns out to be at it."""
    broker = Broker.parse(broker_url(server.settings), tls_context(server))
    limits = packet_limits(this, server.settings, broker)
    link = Link(broker, GATEWAY)
    wants = Wants(pace(server.settings, limits))
    publisher = Publisher(server, link, wants, limits)
    intake = Intake(server, link, publisher, wants, limits.block_bytes)
    sender = blocks.BlockSender(link, server.store, wants, limits.block_bytes)
    maker = PatchMaker(server, this.instance, workers=max(1, (os.cpu_count() or 2) // 2))
    link.start()
    try:
        if _connected(this, server, link, broker):
            intake.start()
            sender.start()
            this.ready(str(broker))
            with Turn(this, server.db, link) as turn:
                _loop(turn, publisher, maker, intake, sender)
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


def packet_limits(this: Process, settings: Settings, broker: Broker) -> PacketLimits:
    """Return how large blocks are: as configured, or what the broker takes.

    Our own child is not asked: we configured it. Raises SettingsError.
    """
    if is_child(settings):
        return PacketLimits(settings.block_bytes)
    limits = fit(settings.block_bytes, ask_maximum(broker, GATEWAY))
    if limits.block_bytes != settings.block_bytes:
        this.note(
            f"blocks have {limits.block_bytes} bytes instead of {settings.block_bytes}: the broker "
            f"takes packets of {limits.packet_bytes} bytes at most"
        )
    return limits


def pace(settings: Settings, limits: PacketLimits) -> Pace:
    """Return how fast blocks go out."""
    return Pace(
        block_bytes=limits.block_bytes,
        gather_s=settings.merge_window_ms / 1000,
        bytes_per_s=settings.blocks_bytes_per_s,
        device_bytes_per_s=settings.device_bytes_per_s,
    )


def _connected(this: Process, server: Server, link: Link, broker: Broker) -> bool:
    """Wait for the broker.

    Returns:
        False if told to stop before it came, or if another gateway is to try or at work by then.
    """
    started, said = time.monotonic(), False
    tried_since = started
    while not link.ready.wait(0.1):
        if this.stopping.is_set():
            return False
        now = time.monotonic()
        if not said and now - started > ANNOUNCE_AFTER_S:
            this.note(f"waiting for the broker at {broker}")
            said = True
        if now - tried_since >= LEASE_S:
            this.begin_anew()
            if _other_at_work(this, server):
                return False
            tried_since = now
    return not _other_at_work(this, server)  # a turn lasts from the last heartbeat: it is fresh now


def _other_at_work(this: Process, server: Server) -> bool:
    try:
        return at_work(this, server.db, utcnow()) != this.instance
    except AWAY as error:
        logger.warning("%s", unanswered(error))
        return False


def _loop(
    turn: Turn,
    publisher: Publisher,
    maker: PatchMaker,
    intake: Intake,
    sender: blocks.BlockSender,
) -> None:
    this = turn.process
    while not this.stopping.wait(STEP_S):
        if dead := [thread.name for thread in (intake, sender) if not thread.is_alive()]:
            raise FleetError(f"{dead[0]} ended; its last words are above")  # and we start anew
        try:
            this.detail = {
                "messages": intake.taken,
                "refused": intake.refused,
                "blocks": sender.sent_blocks,
                "bytes": sender.sent_bytes,
            }
            if turn.is_over():
                return
            maker.step()
            publisher.step()
        except UnsentError as error:
            logger.info("%s", error)
            this.stopping.wait(1.0)
        except AWAY as error:
            logger.warning("%s", unanswered(error))
            this.stopping.wait(1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway. Returns the exit code."""
    return process.main("gateway", run, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
