"""Like kill_target.py, but dies by itself: python kill_at.py N DIR PACK

Dies at the Nth moment, counted over the whole run, at which something was about to become durable
or just had: a COMMIT, a rename, an fsync.
"""

import os
import signal
import sys
from pathlib import Path

import kill_target

from edgec_agent.state import AgentState


def main(nth: int) -> None:
    left = [nth]

    def moment() -> None:
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def watched(real):
        def call(*arguments, **more):
            moment()
            found = real(*arguments, **more)
            moment()
            return found

        return call

    os.replace = watched(os.replace)
    AgentState._commit = watched(AgentState._commit)
    kill_target.main(Path(sys.argv[2]), Path(sys.argv[3]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
