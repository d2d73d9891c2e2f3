"""Runs a listener with gunicorn: `python -m edgec_fleet.web operators|devices --dir DIR`.

operators: console and API; plain HTTP on loopback, TLS with the fleet CA's certificate elsewhere.
devices: TLS always; a client certificate is asked for, and verified by the fleet CA if given
(a device that enrols has none yet). The application reads it from the TLS connection.

When it accepts connections it prints one line: ``ready https://127.0.0.1:8444``.
"""

import argparse
import functools
import logging
import socket
import ssl
import sys
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from edgec_fleet.api.app import devices_app, operators_app
from edgec_fleet.db.session import AWAY, unanswered
from edgec_fleet.errors import FleetError
from edgec_fleet.pki import Authority, ServerFiles, ensure_server_files
from edgec_fleet.server import Server
from edgec_fleet.settings import Address, Settings
from edgec_fleet.worker import PatientWorker

CONNECTIONS = 2048  # open ones; above that they wait to be accepted
SOCKET_TIMEOUT_S = 60.0  # for each read; `worker` bounds the whole

LISTENERS = ("operators", "devices")


class Listener(BaseApplication):  # type: ignore[misc]
    """A gunicorn server with one worker process for one of LISTENERS.

    Args:
        name: one of LISTENERS.
        settings: of the server; each worker opens the folder for itself.
    """

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.tls = tls_files(name, settings)
        super().__init__()

    def load_config(self) -> None:
        """Set gunicorn's options; nothing is read from files or the environment."""
        address = self.settings.http if self.name == "operators" else self.settings.devices
        options: dict[str, Any] = {
            "bind": [str(address)],
            "workers": 1,
            "worker_class": PatientWorker,
            "worker_connections": CONNECTIONS,
            "threads": self.settings.http_threads,
            "timeout": 60,
            "graceful_timeout": 3,
            "keepalive": 15,
            "loglevel": "warning",
            "proc_name": f"edgec-fleet {self.name}",
            "forwarded_allow_ips": "",
            "control_socket_disable": True,
            "when_ready": functools.partial(_announce, "https" if self.tls else "http"),
        }
        if self.tls is not None:
            options |= {
                "certfile": str(self.tls.certificate),
                "keyfile": str(self.tls.key),
                "ca_certs": str(self.tls.ca),
                "do_handshake_on_connect": False,  # but in its thread, where it is watched
                "ssl_context": lambda _config, _default: tls_context(self.name, self.tls),
            }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Open the server's folder in this worker and return its application."""
        server = Server.open(self.settings)
        return operators_app(server) if self.name == "operators" else devices_app(server)


def tls_files(name: str, settings: Settings) -> ServerFiles | None:
    """Return the listener's TLS files, made when needed; None: it speaks plain HTTP.

    Raises SettingsError.
    """
    if name == "operators" and settings.http.is_loopback:
        return None
    hosts = list(settings.hosts)
    for address in (settings.http, settings.devices, settings.mqtt):
        if address.host not in (*hosts, *Address.WILDCARDS):
            hosts.append(address.host)
    authority = Authority.load(settings.keys_dir)
    return ensure_server_files(authority, settings.dir / "tls", hosts)


def tls_context(name: str, files: ServerFiles | None) -> ssl.SSLContext:
    """Return the context for new connections, read anew after a certificate was renewed."""
    assert files is not None  # noqa: S101 (only set as a hook when there are files)
    stamps = tuple(path.stat().st_mtime_ns for path in (files.certificate, files.key, files.ca))
    return _context(name == "devices", files, stamps)


@functools.lru_cache(maxsize=4)
def _context(mutual: bool, files: ServerFiles, _stamps: tuple[int, ...]) -> ssl.SSLContext:
    context = _PatientContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key)
    if mutual:
        context.load_verify_locations(cafile=files.ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


class _PatientContext(ssl.SSLContext):
    """Gives every connection a timeout before its handshake begins."""

    def wrap_socket(self, sock: socket.socket, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        sock.settimeout(SOCKET_TIMEOUT_S)
        return super().wrap_socket(sock, *args, **kwargs)


def _announce(scheme: str, arbiter: Any) -> None:
    for listener in arbiter.LISTENERS:
        host, port = listener.sock.getsockname()[:2]
        print(f"ready {scheme}://{Address(host, port)}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one listener until SIGTERM. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m edgec_fleet.web", description=__doc__)
    parser.add_argument("listener", choices=LISTENERS)
    Settings.add_arguments(parser)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        settings = Settings.from_arguments(given)
        Server.open(settings).close()
        listener = Listener(given.listener, settings)
    except FleetError as error:
        print(f"edgec-fleet {given.listener}: {error}", file=sys.stderr)
        return 2
    except AWAY as error:
        print(f"edgec-fleet {given.listener}: {unanswered(error)}", file=sys.stderr)
        return 4
    listener.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
