"""What every part of the server does as a process: settings, log, signals, ready line, heartbeat.

A part prints one line ``ready <where>`` when it does its work, and stops at SIGTERM or SIGINT.
Its log goes to stderr, one line per record, `LEVEL name: text`.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import FrameType
from typing import Any

from sqlalchemy import delete

from edgec_bundle.errors import BundleError
from edgec_fleet.db import Database
from edgec_fleet.db.schema import Part, utcnow
from edgec_fleet.db.session import AWAY, insert_or, unanswered
from edgec_fleet.errors import FleetError
from edgec_fleet.server import Server
from edgec_fleet.settings import Settings

BEAT_S = 5.0
GONE_AFTER = timedelta(minutes=10)  # rows of instances that never said good-bye

logger = logging.getLogger(__name__)


class Process:
    """This process as a part of the server: when to stop, and how it tells that it lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.instance = f"{socket.gethostname()[:40]}:{os.getpid()}"
        self.stopping = threading.Event()
        self.detail: dict[str, Any] = {}
        self.beaten_at_s = float("-inf")  # time.monotonic() of the last heartbeat written
        self._started = utcnow()
        self._shown_start: datetime | None = None  # by that heartbeat

    def handle_signals(self) -> None:
        """Stop at SIGTERM and SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def ready(self, where: str) -> None:
        """Say once that the part does its work."""
        print(f"ready {where}", flush=True)

    def note(self, text: str) -> None:
        """Say something that people should see without looking into logs."""
        print(f"note {text}", flush=True)

    def beat(self, db: Database, *, now: bool = False) -> None:
        """Write the part's heartbeat if it is due (or `now`). One that failed stays due."""
        started, at, at_s = self._started, utcnow(), time.monotonic()
        if not now and self._shown_start == started and at_s - self.beaten_at_s < BEAT_S:
            return
        said = {"started_at": started, "beat_at": at, "detail": dict(self.detail)}
        with db.write() as session:
            insert_or(session, Part, {"name": self.name, "instance": self.instance, **said}, said)
            session.execute(delete(Part).where(Part.beat_at < at - GONE_AFTER))
            if self._started != started:  # anew, while a slow database kept this thread waiting
                session.rollback()
                return
        self.beaten_at_s, self._shown_start = at_s, started

    def begin_anew(self) -> None:
        """Count as started just now, so that instances that wait come first."""
        self._started = utcnow()

    def gone(self, db: Database) -> None:
        """Take the heartbeat away: the part has stopped."""
        with db.write() as session:
            session.execute(
                delete(Part).where(Part.name == self.name, Part.instance == self.instance)
            )

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping.set()


def _say_good_bye(process: Process, db: Database) -> None:
    try:
        process.gone(db)
    except AWAY as error:
        logger.warning("%s", unanswered(error))


def main(
    name: str,
    run: Callable[[Process, Server], None],
    arguments: Sequence[str] | None,
    description: str | None,
) -> int:
    """Run one part until it is told to stop. Returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m edgec_fleet.{name}", description=description)
    Settings.add_arguments(parser)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for chatty in ("alembic", "transitions", "amqtt"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    process = Process(name)
    process.handle_signals()
    try:
        server = Server.open(Settings.from_arguments(given))
        try:
            run(process, server)
            _say_good_bye(process, server.db)
        finally:
            server.close()
    except (FleetError, BundleError) as error:
        print(f"edgec-fleet {name}: {error}", file=sys.stderr)
        return 2
    except AWAY as error:  # when we start; later it is waited for
        print(f"edgec-fleet {name}: {unanswered(error)}", file=sys.stderr)
        return 4
    return 0
