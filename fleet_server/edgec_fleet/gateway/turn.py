"""How long the gateway at work may go on: as long as it reaches broker and database.

The others take over `duty.LIVES` after its last heartbeat. It has to have left the broker by then,
though it may be waiting for an answer of the database that never comes: two gateways under one
name would take the broker's connection from each other. So one thread holds the turn, however long
a step of the work takes, and another watches the time.
"""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from edgec_fleet.db import Database
from edgec_fleet.db.schema import utcnow
from edgec_fleet.db.session import AWAY, unanswered
from edgec_fleet.gateway.duty import at_work
from edgec_fleet.gateway.link import Link
from edgec_fleet.process import BEAT_S, Process

LEASE_S = 3 * BEAT_S  # without broker or database; less than the others wait
LEAVE_S = 2.0  # for a heartbeat that is being written when the turn ends

logger = logging.getLogger(__name__)


class Turn:
    """This gateway's turn to work, to be used as a context.

    Args:
        process: the gateway, whose heartbeat the others see; the turn lasts from the last one.
        db: where the heartbeats are.
        link: is closed as soon as the turn has lapsed.
        lease_s: how long it lasts without broker or database.
        hold_s: how often it is held.
        leave_s: how long its end waits for the database's answer.
    """

    def __init__(
        self,
        process: Process,
        db: Database,
        link: Link,
        *,
        lease_s: float = LEASE_S,
        hold_s: float = BEAT_S,
        leave_s: float = LEAVE_S,
    ) -> None:
        self.process = process
        self._db = db
        self._link = link
        self._lease_s, self._hold_s, self._leave_s = lease_s, hold_s, leave_s
        self._why_over: str | None = None
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"edgec-turn-{name}", daemon=True)
            for name, work in (("hold", self._hold), ("watch", self._leave_in_time))
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            # A database whose machine acknowledges but never answers must not keep us from ending
            # at SIGTERM. A daemon: it goes with the process, and `beat` drops what comes too late.
            thread.join(self._leave_s)

    def is_over(self) -> bool:
        """Return whether another gateway works, or may: said, if it is so."""
        if self._why_over is None:
            return False
        self.process.note(self._why_over)
        return True

    def _hold(self) -> None:
        while not self._ended.wait(self._hold_s):
            if not self._link.ready.is_set():
                continue
            try:
                other = at_work(self.process, self._db, utcnow())
            except AWAY as error:
                logger.warning("%s", unanswered(error))
                continue
            if other != self.process.instance:
                self._why_over = f"leaves the work to gateway {other}, which began before"
                return

    def _leave_in_time(self) -> None:
        while (left_s := self.process.beaten_at_s + self._lease_s - time.monotonic()) > 0:
            if self._ended.wait(left_s):
                return
        away = "database" if self._link.ready.is_set() else "broker"
        why = f"the {away} was away for too long"
        logger.warning("%s: the connection to the broker is closed", why)
        self.process.begin_anew()
        self._why_over = f"lets others take over: {why}"
        self._link.close()
