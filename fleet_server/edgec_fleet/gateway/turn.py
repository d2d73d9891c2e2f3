"""How long the gateway at work may go on: as long as it reaches broker and database.

The others take over `duty.LIVES` after its last heartbeat. It has to have left the broker by then,
though it may be waiting for an answer of the database that never comes: two gateways under one
name would take the broker's connection from each other. So a thread of its own watches.
"""

import logging
import threading
import time
from types import TracebackType
from typing import Self

from edgec_fleet.db import Database
from edgec_fleet.db.schema import utcnow
from edgec_fleet.gateway.duty import at_work
from edgec_fleet.gateway.link import Link
from edgec_fleet.process import BEAT_S, Process

LEASE_S = 3 * BEAT_S  # without broker or database; less than the others wait

logger = logging.getLogger(__name__)


class Turn:
    """This gateway's turn to work, to be used as a context.

    Args:
        process: the gateway, whose heartbeat the others see.
        db: where the heartbeats are.
        link: is closed as soon as the turn has lapsed.
        lease_s: how long it lasts without broker or database.
    """

    def __init__(
        self, process: Process, db: Database, link: Link, lease_s: float = LEASE_S
    ) -> None:
        self.process = process
        self._db = db
        self._link = link
        self._lease_s = lease_s
        self._held_at = time.monotonic()
        self._lapsed: str | None = None
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._leave_in_time, name="edgec-turn", daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._watch.join()

    def is_over(self, now: float) -> bool:
        """Return whether another gateway works, or may: said, if it is so.

        Args:
            now: on the clock of `time.monotonic`.

        Raises:
            OperationalError: the database does not answer.
        """
        if self._lapsed is None and now - self._held_at >= BEAT_S and self._link.ready.is_set():
            other = at_work(self.process, self._db, utcnow())
            if other != self.process.instance:
                self.process.note(f"leaves the work to gateway {other}, which began before")
                return True
            self._held_at = now  # and not when the answer came: the heartbeat is as old
        if self._lapsed is None:
            return False
        self.process.note(f"lets others take over: {self._lapsed}")
        self.process.begin_anew()
        return True

    def _leave_in_time(self) -> None:
        while (left_s := self._held_at + self._lease_s - time.monotonic()) > 0:
            if self._ended.wait(left_s):
                return
        away = "database" if self._link.ready.is_set() else "broker"
        self._lapsed = f"the {away} was away for too long"
        logger.warning("%s: the connection to the broker is closed", self._lapsed)
        self._link.close()
