"""Hosts that a cable can be pulled from: network namespaces on one bridge, and a PostgreSQL.

The machine itself has the broker at `Site.BROKER` and PostgreSQL at `Site.DATABASE`. A host that
is cut off from one of them sends into the void and is not told: half-open connections.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from free_ports import free_port
from mqtt_clients import wait_for

_VOID = "02:00:00:00:00:01"  # an Ethernet address that nobody has


class CannotError(Exception):
    """This machine doesn't let us make what is asked for."""


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotError(f"{words[0]} is not installed") from error
    if done.returncode:
        raise CannotError(f"{' '.join(words)}: {done.stderr.strip()}")


class Host:
    """A network namespace with a name of its own."""

    def __init__(self, site: str, number: int) -> None:
        self.name = f"host-{number}"
        self._space = f"{site}n{number}"
        self._cut: list[str] = []
        ours, theirs = f"{site}v{number}", f"{site}w{number}"
        _run("ip", "netns", "add", self._space)
        _run("ip", "link", "add", ours, "type", "veth", "peer", "name", theirs)
        _run("ip", "link", "set", theirs, "netns", self._space, "name", "eth0")
        _run("ip", "link", "set", ours, "master", f"{site}b", "up")
        self._inside("link", "set", "lo", "up")
        self._inside("addr", "add", f"{Site.NET}.{100 + number}/24", "dev", "eth0")
        self._inside("link", "set", "eth0", "up")

    @property
    def prefix(self) -> list[str]:
        """What to put before a command so that it runs there."""
        named = f'hostname {self.name} && exec "$@"'
        return ["ip", "netns", "exec", self._space, "unshare", "--uts", "sh", "-c", named, "sh"]

    def cut(self, *addresses: str) -> None:
        """Let what is sent to these addresses vanish."""
        for address in addresses:
            words = ("neigh", "replace", address, "lladdr", _VOID, "dev", "eth0")
            self._inside(*words, "nud", "permanent")
            self._cut.append(address)

    def mend(self) -> None:
        """Let everything through again."""
        while self._cut:
            self._inside("neigh", "del", self._cut.pop(), "dev", "eth0")

    def close(self) -> None:
        with suppress(CannotError):
            _run("ip", "netns", "del", self._space)

    def _inside(self, *words: str) -> None:
        _run("ip", "-n", self._space, *words)


class Site:
    """The bridge, and the hosts on it."""

    NET = "10.213.47"
    BROKER, DATABASE = f"{NET}.1", f"{NET}.2"

    def __init__(self, hosts: int) -> None:
        """Make it. Raises CannotError."""
        self._name = "e" + uuid.uuid4().hex[:6]
        self.hosts: list[Host] = []
        try:
            _run("ip", "link", "add", f"{self._name}b", "type", "bridge")
            for address in (self.BROKER, self.DATABASE):
                _run("ip", "addr", "add", f"{address}/24", "dev", f"{self._name}b")
            _run("ip", "link", "set", f"{self._name}b", "up")
            for number in range(1, hosts + 1):
                self.hosts.append(Host(self._name, number))
            _run(*self.hosts[0].prefix, "true")
        except CannotError:
            self.close()
            raise

    def close(self) -> None:
        for host in self.hosts:
            host.close()
        with suppress(CannotError):
            _run("ip", "link", "del", f"{self._name}b")


@contextmanager
def postgresql() -> Iterator[str]:
    """Yield the URL of a PostgreSQL of one's own at `Site.DATABASE`. Raises CannotError."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    path = os.pathsep.join([*map(str, reversed(found)), os.environ["PATH"]])
    initdb, server = shutil.which("initdb", path=path), shutil.which("postgres", path=path)
    if not initdb or not server:
        raise CannotError("PostgreSQL's programs are not installed")
    folder, port = Path(tempfile.mkdtemp(prefix="edgec-pg-")), free_port()
    prefix: list[str] = []
    process = None
    try:
        if os.geteuid() == 0:  # which PostgreSQL refuses to run as
            shutil.chown(folder, "postgres", "postgres")
            prefix = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        _run(*prefix, initdb, "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "-N")
        with (folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 0.0.0.0/0 trust\n")
        settings = (f"port={port}", "listen_addresses=*", f"unix_socket_directories={folder}")
        options = [word for one in (*settings, "fsync=off") for word in ("-c", one)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*prefix, server, "-D", str(folder / "data"), *options], stdout=log, stderr=log
            )
        url = f"postgresql://postgres@{Site.DATABASE}:{port}/postgres"
        wait_for(lambda: _answers(url), "PostgreSQL")
        yield url
    finally:
        if process is not None:
            process.send_signal(signal.SIGQUIT)
            process.wait(60)
        shutil.rmtree(folder)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
