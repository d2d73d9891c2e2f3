"""Ports of 127.0.0.1 that stay free until the test binds them.

They lie below the range from which the kernel gives ports to outgoing connections, so that no
connection takes one between the choice and the listener, or while a broker restarts; and they are
reserved among all processes that choose here, by an abstract Unix socket for each.
"""

import os
import random
import socket
from pathlib import Path

_FIRST, _END = 10_000, 32_768
_reserved: list[socket.socket] = []  # until this process ends


def free_port() -> int:
    """Return a port that nobody listens on, and that nobody else is given."""
    for port in _candidates():
        try:
            _reserve(port)
            with socket.socket() as probe:
                probe.bind(("0.0.0.0", port))
        except OSError:
            continue
        return port
    raise AssertionError("no port is free")


def _candidates() -> list[int]:
    end = _END
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if limits.exists():
        end = min(end, int(limits.read_text().split()[0]))
    ports = list(range(_FIRST, end)) or list(range(_END, 61_000))
    random.Random(os.urandom(8)).shuffle(ports)
    return ports


def _reserve(port: int) -> None:
    if not Path("/proc/net/unix").exists():  # no abstract sockets: the choice is random enough
        return
    owner = socket.socket(socket.AF_UNIX)
    try:
        owner.bind(f"\0edgec-test-port-{port}")
    except OSError:
        owner.close()
        raise
    _reserved.append(owner)
