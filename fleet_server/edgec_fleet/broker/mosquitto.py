"""Mosquitto as our child, configured from the policy.

Measured on 2.0.11: SIGHUP reads the ACL and the CRL anew without dropping connections; new rights
count from the next message on, a revoked certificate is refused from the next handshake on. What
SIGHUP doesn't do is to end a connection that stands: a second client with the same id does that,
through a listener on a unix socket that only we can reach and that takes the id as it is told.

The dynamic-security plugin is not used. By its code it isn't asked about clients that show a
certificate (there is no password), so a disabled one would come back, and each change of a role
disconnects its clients.
"""

import logging
import os
import pwd
import queue
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from edgec_bundle.messages import UP_KINDS, Desired
from edgec_fleet._child import command
from edgec_fleet.broker.policy import GATEWAY, Policy
from edgec_fleet.errors import FleetError
from edgec_fleet.settings import Address

logger = logging.getLogger(__name__)

CONTROL = "control.sock"
ACL = "acl.conf"
CRL = "crl.pem"
CA = "ca.crt"
IDENTITY = "server.pem"  # certificate and key in one file
CONFIG = "mosquitto.conf"
LARGEST_MESSAGE = Desired.MAX_BYTES + 1024  # and its topic
QUEUED_MESSAGES = 100_000  # for the gateway: one wildcard subscriber to all devices' retained state
QUEUED_BYTES = 512 << 20  # of them, so that a talkative device doesn't fill the memory
ANSWER_S = 10.0
_RELOADED = "Reloading config."
_RUNNING = " running"


class BrokerError(FleetError):
    """The broker could not be started or did not answer."""


def config(address: Address, user: str) -> str:
    """Return mosquitto.conf; its paths are relative to the folder that Mosquitto runs in."""
    return f"""\
# Written by edgec-fleet at every start; changes are lost.
per_listener_settings true
user {user}
log_dest stderr
log_timestamp false
log_type error
log_type warning
log_type notice
log_type information
connection_messages false
persistence true
persistence_location ./
autosave_interval 60
persistent_client_expiration 14d
set_tcp_nodelay true
max_inflight_messages 200
max_queued_messages {QUEUED_MESSAGES}
max_queued_bytes {QUEUED_BYTES}
max_packet_size {LARGEST_MESSAGE + 1024}

listener {address.port} {address.host}
cafile {CA}
certfile {IDENTITY}
keyfile {IDENTITY}
crlfile {CRL}
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_zero_length_clientid false
acl_file {ACL}

listener 0 {CONTROL}
allow_anonymous true
acl_file nothing.conf
"""


def acl(policy: Policy) -> str:
    """Return the ACL file.

    A device's own topics follow from its certificate's name, which is unique over all tenants:
    so one that has just enrolled is heard at once. What it may write is listed by tenant and kind:
    the broker keeps a retained message for each topic, and a wildcard would let one device fill
    its memory. The blobs it may read are listed. Denials come
    first in Mosquitto, whatever their place. Patterns are compared with topics, not with
    subscriptions: SUBACK says "granted" to everything, and what counts is checked again with
    every message.
    """
    lines = [
        "pattern read edgec/v1/+/dev/%u/down/+",
        *(
            f"pattern write edgec/v1/{tenant}/dev/%u/up/{kind}"
            for tenant in sorted(policy.tenants)
            for kind in UP_KINDS
        ),
        f"user {GATEWAY}",
        "topic readwrite edgec/v1/#",
    ]
    for device in sorted(policy.revoked):
        lines += [f"user {device}", "topic deny #"]
    for device, grant in sorted(policy.devices.items()):
        lines.append(f"user {device}")
        lines += [
            f"topic read edgec/v1/{grant.tenant}/blob/{digest}/+"
            for digest in sorted(grant.digests)
        ]
    return "\n".join(lines) + "\n"


class Mosquitto:
    """A running Mosquitto. The caller's working folder must be `folder` (short socket paths)."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._lines: queue.Queue[str] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None

    def start(self, address: Address, policy: Policy) -> None:
        """Write the files and start. TLS files and CRL must be in the folder already."""
        (self._folder / "nothing.conf").write_text("topic deny #\n")
        (self._folder / CONFIG).write_text(config(address, pwd.getpwuid(os.getuid()).pw_name))
        self._write_acl(policy)
        (self._folder / CONTROL).unlink(missing_ok=True)
        self._process = subprocess.Popen(
            command([self._program, "-c", CONFIG]),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._read_log, daemon=True).start()
        self._await(_RUNNING, "mosquitto did not start")

    @property
    def exit_code(self) -> int | None:
        """The exit code if it has ended, or None while it runs."""
        return None if self._process is None else self._process.poll()

    def apply(self, policy: Policy, kick: Iterable[str]) -> None:
        """Put `policy` (and the CRL in the folder) in force, and end connections of `kick`.

        Raises BrokerError: Mosquitto did not take it.
        """
        self._write_acl(policy)
        self._reload()
        for device in kick:
            end_session(self._folder / CONTROL, device)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop; what is retained and queued is saved."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write_acl(self, policy: Policy) -> None:
        path = self._folder / ACL
        temporary = path.with_suffix(".tmp")
        temporary.write_text(acl(policy))
        temporary.chmod(0o600)
        os.replace(temporary, path)

    def _reload(self) -> None:
        assert self._process is not None  # noqa: S101 (started before)
        while not self._lines.empty():
            self._lines.get_nowait()
        self._process.send_signal(signal.SIGHUP)
        self._await(_RELOADED, "mosquitto did not read its rules anew")

    def _await(self, word: str, complaint: str) -> None:
        """Wait until a line of Mosquitto's log ends with `word`. Raises BrokerError."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            try:
                if self._lines.get(timeout=0.1).endswith(word):
                    return
            except queue.Empty:
                if self.exit_code is not None:
                    break
        raise BrokerError(f"{complaint}; its log says why")

    def _read_log(self) -> None:
        assert self._process is not None  # noqa: S101
        assert self._process.stderr is not None  # noqa: S101
        for line in self._process.stderr:
            text = line.strip()
            if text.endswith((_RELOADED, _RUNNING)):
                self._lines.put(text)
            elif text:
                logger.info("%s", text)


def end_session(control: Path, client_id: str) -> None:
    """End the connection and the session of a client by taking its id over for a moment.

    Raises BrokerError.
    """
    name = client_id.encode()
    body = b"\x00\x04MQTT\x04\x02\x00\x0a" + struct.pack(">H", len(name)) + name
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5.0)
            client.connect(_short(control))
            client.sendall(bytes([0x10, len(body)]) + body)  # CONNECT, clean session
            answer = client.recv(4)
            client.sendall(b"\xe0\x00")  # DISCONNECT
    except OSError as error:
        raise BrokerError(f"the broker's control socket: {error}") from error
    if answer[:1] != b"\x20" or answer[3:4] != b"\x00":
        raise BrokerError(f"the broker refused to end the session of {client_id}")


def _short(path: Path) -> str:
    """Return `path` relative to the working folder if shorter: sockets' paths end at 107 bytes."""
    return min(str(path), os.path.relpath(path), key=len)


def version(program: str) -> str:
    """Return e.g. "mosquitto 2.0.11"."""
    try:
        said = subprocess.run(
            [program, "-h"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return "mosquitto"
    words: Sequence[str] = said.stdout.split()
    return f"mosquitto {words[2]}" if words[:2] == ["mosquitto", "version"] else "mosquitto"
