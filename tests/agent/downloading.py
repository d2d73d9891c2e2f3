"""What tests of downloads share: a blob, quick settings, and a connected link."""

import os
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from fleet_world import BLOCK, DEVICE, TENANT, until

from edgec_agent.config import Link as LinkConfig
from edgec_agent.config import Transfer
from edgec_agent.link import Link
from edgec_bundle.digest import sha256_hex
from edgec_bundle.messages import State, Topics, rfc3339

# Where something is to fail, the sooner the better; where all is to go well, no stall of this
# machine may pass for one of the network.
PATIENT = Transfer(stall_s=60.0, window_blocks=8, rounds=1, connect_timeout_s=60.0)
HASTY = replace(PATIENT, stall_s=0.5, stalls=2)
ASKS_AGAIN = replace(HASTY, stalls=1000)
BORES_SOON = replace(PATIENT, block_timeout_s=2.0)
DATA = os.urandom(BLOCK * 20 + 777)  # 21 blocks, the last one short
DIGEST = sha256_hex(DATA)
SIZE = len(DATA)


@contextmanager
def linked(port, identity, desired=None, config=None):
    """Yield a link that is connected."""
    link = Link(
        ("127.0.0.1", port),
        Topics(TENANT, DEVICE),
        config or LinkConfig(backoff_s=0.1, longest_backoff_s=0.3),
        tls=identity.tls,
        will=lambda: State(at=now(), boot_id="boot", online=False).to_bytes(),
        on_desired=(desired if desired is not None else []).append,
        now=now,
    )
    link.start()
    try:
        until(lambda: link.is_connected, what="the link")
        yield link
    finally:
        link.close()


class Watched:
    """A source whose blob a test may look at while it is filled."""

    def __init__(self, source):
        self.source, self.name, self.is_ready = source, source.name, source.is_ready
        self.partial = None
        self.left = None  # blocks that were missing when its last turn was over

    def pull(self, partial, interrupt):
        self.partial = partial
        try:
            self.source.pull(partial, interrupt)
        finally:
            self.left = partial.missing()

    def has(self, *blocks):
        """Return whether these blocks have come."""
        return self.partial is not None and all(map(self.partial.has_block, blocks))


def now():
    return rfc3339(datetime.now(UTC))


def fetch(downloader, *sources, digest=DIGEST, size=SIZE, block_bytes=BLOCK):
    return downloader.fetch(digest, size, sources, block_bytes)


def drips(start, drop):
    """Answer with `start` and then a `drop` now and then: no single read ever takes long."""

    def answer(handler, data):
        handler.wfile.write(start)
        while True:  # until the client hangs up
            handler.wfile.write(drop)
            handler.wfile.flush()
            time.sleep(0.1)

    return answer


DRIPPING = {
    "body": drips(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE, b"x"),
    "header": drips(b"HTTP/1.1 200 OK\r\nServer: ", b"x"),
    "headers": drips(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"),
    "interim-answers": drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk-length": drips(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
}
