"""Sends what waits: `hello` and `state` after each connect, then the outbox, oldest first.

A letter leaves the outbox when the broker has acknowledged it. After a broken connection all
that was under way is sent again; receivers know a message by its id.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable

from edgec_agent.link import Link
from edgec_agent.outbox import Outbox

logger = logging.getLogger(__name__)

_UNDER_WAY = 20  # letters sent and not yet acknowledged
_TICK_S = 0.25
_GOODBYE_S = 2.0


class Post:
    """One thread between the outbox and the link."""

    def __init__(
        self, link: Link, outbox: Outbox, hello: Callable[[], bytes], state: Callable[[bool], bytes]
    ) -> None:
        """Prepare; `start` begins.

        Args:
            link: where it goes.
            outbox: where it waits.
            hello: makes the message `hello`.
            state: makes the retained message `state`, online or not.
        """
        self._link = link
        self._outbox = outbox
        self._hello = hello
        self._state = state
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._generation = 0
        self._under_way: dict[int, int | None] = {}  # number of a publish -> letter, None: other
        self._last_letter = 0
        self._thread = threading.Thread(target=self._run, name="edgec-post", daemon=True)

    def start(self) -> None:
        """Begin sending, in a thread of its own."""
        self._thread.start()

    def state_changed(self) -> None:
        """Send `state`, and what is in the outbox, soon."""
        self._changed.set()

    def close(self) -> None:
        """Say good-bye if the broker is there, and stop."""
        self._stop.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        number = self._link.publish("state", self._state(False), retain=True)
        deadline = time.monotonic() + _GOODBYE_S
        while number is not None and time.monotonic() < deadline:
            try:
                _, found = self._link.acks.get(timeout=_TICK_S)
            except queue.Empty:
                continue
            if found == number:
                return

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
            except sqlite3.Error as error:  # a full or failing disk; serving does not need it
                logger.error("state.db: %s", error)
                self._stop.wait(5)
            except Exception:  # the edge: what could not be said today is said tomorrow
                logger.exception("the post")
                self._stop.wait(5)

    def _turn(self) -> None:
        if not self._link.is_connected:
            self._changed.wait(_TICK_S)
            self._changed.clear()
            return
        if self._link.generation != self._generation:
            self._generation = self._link.generation
            self._under_way.clear()
            self._last_letter = 0
            self._publish("hello", self._hello(), None)
            self._changed.set()
        if self._changed.is_set():
            self._changed.clear()
            self._publish("state", self._state(True), None, retain=True)
        room = _UNDER_WAY - len(self._under_way)
        for letter in self._outbox.oldest(max(room, 0), after=self._last_letter):
            if not self._publish(letter.kind, letter.payload, letter.id):
                break
            self._last_letter = letter.id
        self._take_acks()

    def _publish(self, kind: str, payload: bytes, letter: int | None, retain: bool = False) -> bool:
        number = self._link.publish(kind, payload, retain=retain)
        if number is None:
            return False
        self._under_way[number] = letter
        return True

    def _take_acks(self) -> None:
        """Wait for acknowledgements, but not when there is something new to say."""
        deadline = time.monotonic() + _TICK_S
        while not self._changed.is_set():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            try:
                generation, number = self._link.acks.get(timeout=left_s)
            except queue.Empty:
                return
            if generation == self._generation and number in self._under_way:
                letter = self._under_way.pop(number)
                if letter is not None:
                    self._outbox.delete(letter)
            if not self._under_way:
                return
