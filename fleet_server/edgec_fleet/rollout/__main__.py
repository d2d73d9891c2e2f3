"""The rollout engine as a process: `python -m edgec_fleet.rollout --dir DIR`.

Ticks every rollout about once a second, takes devices that come later in, has trust metadata
signed anew before it expires, and asks for the patches that a release will need.
"""

import logging
import sys
import time
from collections.abc import Sequence

from edgec_fleet import process
from edgec_fleet.db.session import AWAY, unanswered
from edgec_fleet.process import Process
from edgec_fleet.registry import audience, trust_state
from edgec_fleet.rollout import engine, joiners
from edgec_fleet.server import Server

TICK_S = 0.5
ADOPT_S = 2.0
REFRESH_S = 300.0

logger = logging.getLogger(__name__)


def run(this: Process, server: Server) -> None:
    """Tick until told to stop. A database that is away for a while is waited for."""
    this.beat(server.db)
    this.ready("ticking")
    adopted = refreshed = float("-inf")
    while not this.stopping.wait(TICK_S):
        try:
            now = time.monotonic()
            if now - refreshed >= REFRESH_S:
                trust_state.refresh(server)
                refreshed = now
            if now - adopted >= ADOPT_S:
                joiners.adopt_all(server.db)
                adopted = now
            audience.step(server.db)
            engine.tick_all(server.db)
            this.beat(server.db)
        except AWAY as error:
            logger.warning("%s", unanswered(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the engine. Returns the exit code."""
    return process.main("engine", run, arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())
