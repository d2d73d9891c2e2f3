"""A child process that answers one request with JSON lines, so that a crash becomes a message.

The child is ``python -m MODULE FD``: the request comes on its stdin, answers go to the file
descriptor FD. What libraries and programs in it print goes to a log that only a failure shows.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from edgec_compiler.deaths import last_lines

_END_S = 4.0  # that a child has to end what it started before it is killed


class Child:
    """Started at once; ended, with all that it started, when the `with` block is left."""

    def __init__(self, module: str, request: Mapping[str, Any]) -> None:
        read_end, write_end = os.pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(write_end)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(write_end,),
            start_new_session=True,  # a Ctrl-C is ours, and what the child starts is its group
        )
        os.close(write_end)
        self._answers = os.fdopen(read_end, encoding="utf-8")
        self.status = 0  # once the answers have ended: as `Popen.returncode`
        self._feed(request)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._answers.close()
        self._process.terminate()  # asked first, so that nothing half-written stays behind
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self.kill()
        self._process.wait()
        self._log.close()

    def answers(self) -> Iterator[dict[str, Any]]:
        """Yield the child's answers; then `status` says how it ended."""
        for line in self._answers:
            yield json.loads(line)
        # One that has answered but does not end, for a thread of somebody's, has done its work.
        with suppress(subprocess.TimeoutExpired):
            self.status = self._process.wait(_END_S)

    def kill(self) -> None:
        """Kill the child and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def said(self) -> list[str]:
        """Return the end of what it printed."""
        return last_lines(self._log)

    def _feed(self, request: Mapping[str, Any]) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the child has no stdin")
        with suppress(BrokenPipeError), self._process.stdin as pipe:  # its status says how it died
            pipe.write(json.dumps(request).encode())


def end_with_parent(answers: int) -> None:
    """Let this process, the leader of its group, end when nobody reads `answers` any more.

    A parent that was killed cannot end its child.
    """

    def watch() -> None:
        poll = select.poll()
        poll.register(answers, 0)  # errors are always told
        poll.poll()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_END_S)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
