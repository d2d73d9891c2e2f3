"""Which messages are looked at: a device that floods is cut short before it costs anything.

Counted by the topic, which the broker vouches for, before a byte of the payload is read. What is
too much is dropped, not deferred: a device asks again for blocks, and an honest one stays far
below these rates, even with the backlog of weeks without a network.
"""

import time
from collections.abc import Callable

from edgec_bundle.errors import MessageError
from edgec_bundle.messages import DeviceTopic, parse_topic
from edgec_fleet.gateway.pace import Buckets

REQUESTS_PER_S, REQUESTS_AT_ONCE = 20.0, 100.0
MESSAGES_PER_S, MESSAGES_AT_ONCE = 10.0, 4000.0  # an agent keeps 2000 events and 100 windows


class Admission:
    """Counts what each device sends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._requests = Buckets(REQUESTS_PER_S, REQUESTS_AT_ONCE, clock)
        self._messages = Buckets(MESSAGES_PER_S, MESSAGES_AT_ONCE, clock)

    def admits(self, topic: str) -> bool:
        """Return whether a message on `topic` is to be looked at, and count it if so."""
        try:
            parts = parse_topic(topic)
        except MessageError:
            return True  # refused, and complained about, by whoever parses the message
        if not isinstance(parts, DeviceTopic):
            return True
        buckets = self._requests if parts.kind == "request" else self._messages
        return buckets.admits(parts.device)
