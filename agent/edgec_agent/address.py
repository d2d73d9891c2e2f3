"""Where the local API listens: "HOST:PORT", "[::1]:PORT" or "unix:PATH".

Whoever reaches it may run every model, so without being told otherwise it is loopback only.
"""

import contextlib
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass

from edgec_agent.errors import AddressError

_BACKLOG = 128
_SOCKET_MODE = 0o660  # the owner's and the group's


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address (host, port) or the path of a unix socket."""

    host: str
    port: int = 0
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Return the address that `text` names. Raises AddressError."""
        if text.startswith("unix:"):
            path = text[len("unix:") :]
            if not path or "\0" in path:
                raise AddressError(f"expected unix:PATH, got {text!r}")
            return cls("", path=path)
        host, colon, port = text.removeprefix("http://").rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise AddressError(f"expected HOST:PORT or unix:PATH, got {text!r}")
        return cls(host, int(port))

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return self.path is not None or is_loopback(self.host)

    def listen(self) -> socket.socket:
        """Return a listening socket. Raises AddressError."""
        try:
            return self._listen_unix(self.path) if self.path is not None else self._listen_tcp()
        except (OSError, UnicodeError) as error:
            raise AddressError(f"cannot listen on {self}: {error}") from error

    def connect(self, timeout_s: float) -> socket.socket:
        """Return a socket connected to it. Raises OSError."""
        if self.path is None:
            sock = socket.create_connection((self.host, self.port), timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(timeout_s)
            sock.connect(self.path)
        except BaseException:
            sock.close()
            raise
        return sock

    def _listen_tcp(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        return socket.create_server((self.host, self.port), family=family, backlog=_BACKLOG)

    def _listen_unix(self, path: str) -> socket.socket:
        self._clear(path)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.bind(path)
            os.chmod(path, _SOCKET_MODE)  # before anybody can connect
            sock.listen(_BACKLOG)
        except BaseException:
            sock.close()
            raise
        return sock

    def _clear(self, path: str) -> None:
        """Remove a socket that a killed agent left; nothing else is ever removed."""
        try:
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise AddressError(f"{path} exists and is not a socket")
        except FileNotFoundError:
            return
        try:
            self.connect(1.0).close()
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        raise AddressError(f"another program listens on {self}")


def is_loopback(host: str) -> bool:
    """Return whether `host` names this machine and nothing else."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
