"""Which of several gateways is at work: the one that started first, of those that live.

To the broker all gateways are one client, and have to be: its session, in which what devices say
waits while none is connected, hangs on that name, and a block goes out once for all who want it
only if one place knows all wants. So one works and the others stand by.
"""

import os
from datetime import datetime, timedelta

from sqlalchemy import select

from edgec_fleet.db import Database
from edgec_fleet.db.schema import Part
from edgec_fleet.process import BEAT_S, Process

LIVES = timedelta(seconds=4 * BEAT_S)  # after its last beat; then another takes over


def at_work(this: Process, db: Database, now: datetime) -> str:
    """Return the instance whose turn it is to work, this one or another.

    Args:
        this: the gateway that asks; its heartbeat is written if due.
        db: where all of them leave their heartbeats.
        now: UTC.
    """
    this.beat(db)
    with db.read() as session:
        instances = session.scalars(
            select(Part.instance)
            .where(Part.name == this.name, Part.beat_at > now - LIVES)
            .order_by(Part.started_at, Part.instance)
        ).all()
    return next((one for one in instances if not _died(one, this.instance)), this.instance)


def _died(instance: str, ours: str) -> bool:
    """Return whether `instance` ("HOST:PID") was a process of this machine that is no more."""
    host, _, pid = instance.rpartition(":")
    if host != ours.rpartition(":")[0]:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False  # it lives, and belongs to somebody else
    return False
