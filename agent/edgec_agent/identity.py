"""Who this device is: DIR/identity, made by enrolment, and what its TLS connections rest on.

identity.json   device, tenant, addresses, accepted profiles, tags
device.pem      private key and certificate in one file, so that both change at once; 0600
ca.pem          the fleet's certificate authority
root.json       the TUF root that the enrolment token pinned
"""

import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from cryptography import x509

from edgec_agent.errors import ConfigError, NotEnrolledError

FOLDER = "identity"
FILE, PEM, CA, ROOT = "identity.json", "device.pem", "ca.pem", "root.json"
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME


@dataclass(frozen=True, slots=True)
class Identity:
    """What enrolment has fixed."""

    device: str
    tenant: str
    mqtt_host: str
    mqtt_port: int
    devices_url: str  # of the HTTPS listener for devices
    profiles: tuple[str, ...] = ()  # accepted, preferred first; (): whatever this board matches
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the form for identity.json."""
        return json.dumps(asdict(self), indent=2, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Return the identity in `payload`. Raises ValueError, TypeError or KeyError."""
        raw: dict[str, Any] = json.loads(payload)
        return cls(**raw | {"profiles": tuple(raw["profiles"])})


class IdentityFolder:
    """The folder DIR/identity."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FOLDER

    @property
    def exists(self) -> bool:
        """Whether this folder was enrolled."""
        return (self.path / FILE).is_file()

    def read(self) -> Identity:
        """Return the identity. Raises NotEnrolledError, ConfigError."""
        try:
            return Identity.from_bytes((self.path / FILE).read_bytes())
        except FileNotFoundError as error:
            raise NotEnrolledError(
                f"{self.path.parent} is not enrolled: run `edgec-agent enroll` first"
            ) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{self.path / FILE} is damaged: {error}") from error

    def root(self) -> bytes:
        """Return the pinned TUF root. Raises ConfigError."""
        return self._bytes(ROOT)

    def certificate(self) -> x509.Certificate:
        """Return the device's certificate. Raises ConfigError."""
        try:
            return x509.load_pem_x509_certificate(self._bytes(PEM))
        except ValueError as error:
            raise ConfigError(f"{self.path / PEM} is damaged: {error}") from error

    def tls(self, *, believe_clock: bool = True) -> ssl.SSLContext:
        """Return a context that shows this device's certificate and believes the fleet's CA only.

        Args:
            believe_clock: False when the clock is known to be wrong (before a time that was
                signed): then certificates count whatever their dates, since a device whose
                battery died could otherwise never ask for the time again.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(self.path / CA)
            context.load_cert_chain(self.path / PEM)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"{self.path}: {error}") from error
        if not believe_clock:
            context.verify_flags |= _NO_CHECK_TIME
        return context

    def replace_pem(self, pem: bytes) -> None:
        """Put a renewed key and certificate in the place of the old ones, both at once."""
        write_file(self.path / PEM, pem, private=True)

    def _bytes(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise ConfigError(f"{self.path / name}: {error.strerror or error}") from error


def write_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Put `data` at `path`, whole or not at all, and on the disk when this returns."""
    temporary = path.with_name(path.name + ".new")
    mode = 0o600 if private else 0o644
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
