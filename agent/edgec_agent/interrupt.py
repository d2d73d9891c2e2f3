"""A way to stop long work between two pieces of it."""

import threading

from edgec_agent.errors import InterruptedWorkError


class Interrupt:
    """Raised by one thread, noticed by another between two pieces of its work."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Make `check` and `sleep` raise until `clear`."""
        self._event.set()

    def clear(self) -> None:
        """Let work go on."""
        self._event.clear()

    def check(self) -> None:
        """Raise InterruptedWorkError if something more urgent came."""
        if self._event.is_set():
            raise InterruptedWorkError("something more urgent came")

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until something more urgent comes."""
        if self._event.wait(seconds):
            raise InterruptedWorkError("something more urgent came")
