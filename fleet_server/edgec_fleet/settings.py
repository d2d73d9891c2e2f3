"""What the server is told about itself: `config.toml` in its folder, and flags over it.

Every process of the server gets the same `Settings`; `to_arguments` writes them as flags for a
child process and `from_arguments` reads them back.
"""

import argparse
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from edgec_bundle.store import DEFAULT_BLOCK_BYTES
from edgec_fleet.errors import SettingsError

CONFIG = "config.toml"
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}")


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port; port 0 lets the system choose."""

    WILDCARDS: ClassVar[tuple[str, ...]] = ("0.0.0.0", "::")  # noqa: S104 (names, not a bind)

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "host:port" or "[ipv6]:port". Raises SettingsError."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif not _HOST.fullmatch(host):
            host = ""
        if not (colon and host and port.isascii() and port.isdigit() and int(port) <= 65535):
            raise SettingsError(f"expected an address like 127.0.0.1:8080, got {text!r}")
        return cls(host, int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host == "localhost" or self.host == "::1" or self.host.startswith("127.")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a process of the server needs to know before it opens the database."""

    dir: Path
    tenant: str = "default"  # of users and devices that name none
    database: str = "sqlite:///fleet.db"  # a relative SQLite path lies in `dir`
    blobs: str = "blobs"  # a folder; relative to `dir`
    http: Address = Address("127.0.0.1", 8080)
    devices: Address = Address("127.0.0.1", 8444)
    mqtt: Address = Address("127.0.0.1", 8883)
    broker: str | None = None  # URL of a broker of one's own; None: start one as a child
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")  # names in the server's certificate
    devices_url: str | None = None  # how devices reach it, if not https://<devices>
    mqtt_public: Address | None = None  # how devices reach the broker, if not <mqtt>
    max_upload_bytes: int = 2 * 2**30
    device_certificate_days: int = 365
    session_hours: int = 12
    block_bytes: int = DEFAULT_BLOCK_BYTES  # of blobs over MQTT
    merge_window_ms: int = 8000  # wants are gathered, and no block is repeated, for this long
    blocks_bytes_per_s: int = 0  # of all blocks together; 0: as fast as the broker takes them
    device_bytes_per_s: int = 8 * 2**20  # of the blocks that one device causes; 0: no limit
    timeline_events: int = 10_000  # kept of each device; telemetry windows too
    http_threads: int = 64  # requests at once, at each listener
    http_per_client: int = 16  # of them of one address, or one device
    signers: Mapping[str, str] = field(default_factory=dict)  # role -> URI of a key elsewhere

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL, with a relative SQLite path made absolute."""
        prefix = "sqlite:///"
        if self.database.startswith(prefix) and not self.database.startswith(prefix + "/"):
            return f"{prefix}{self.dir.resolve() / self.database.removeprefix(prefix)}"
        return self.database

    @property
    def blobs_dir(self) -> Path:
        """The folder of the blob store."""
        return self.dir / self.blobs

    @property
    def keys_dir(self) -> Path:
        """The folder of the CA's and the development keystore's keys."""
        return self.dir / "keys"

    @property
    def uploads_dir(self) -> Path:
        """Where uploads lie while they are looked at."""
        return self.dir / "uploads"

    @property
    def public_devices_url(self) -> str:
        """The base URL of the devices' listener, as devices see it."""
        return self.devices_url or f"https://{self._seen_from_outside(self.devices)}"

    @property
    def public_mqtt(self) -> Address:
        """Where devices connect to the broker."""
        return self.mqtt_public or self._seen_from_outside(self.mqtt)

    def _seen_from_outside(self, address: Address) -> Address:
        """Return `address`, with a wildcard replaced by the first host that is not loopback."""
        if address.host not in Address.WILDCARDS:
            return address
        named = [Address(host, address.port) for host in self.hosts]
        return next((one for one in named if not one.is_loopback), named[0])

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read `folder`/config.toml. Raises SettingsError with what is wrong."""
        path = folder / CONFIG
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SettingsError(
                f"{folder} is not a fleet server's folder (no {CONFIG}); "
                f"make one with: edgec-fleet init --dir {folder}"
            ) from error
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise SettingsError(f"cannot read {path}: {error}") from error
        try:
            return cls(dir=folder, **_checked(raw))
        except TypeError as error:
            raise SettingsError(f"{path}: {error}") from error

    def save(self) -> None:
        """Write config.toml, atomically."""
        path = self.dir / CONFIG
        temporary = path.with_suffix(".tmp")
        temporary.write_text(self.to_toml(), encoding="utf-8")
        os.replace(temporary, path)

    def to_toml(self) -> str:
        """Return the text of config.toml: only what differs from the defaults, and addresses."""
        lines = ["# edgec-fleet: what this server is. Flags of `edgec-fleet serve` go over it.\n"]
        default = Settings(dir=self.dir)
        for name in _KEYS:
            value = getattr(self, name)
            if name in _ALWAYS or value != getattr(default, name):
                lines.append(f"{name} = {_toml(value)}\n")
        return "".join(lines)

    def to_arguments(self) -> list[str]:
        """Return the flags that make a child process read equal settings."""
        arguments = ["--dir", str(self.dir), "--database", self.database]
        for name in ("http", "devices", "mqtt"):
            arguments += [f"--{name}", str(getattr(self, name))]
        if self.broker:
            arguments += ["--broker", self.broker]
        return [*arguments, "--blobs", self.blobs]

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Give `parser` the flags that `from_arguments` reads."""
        parser.add_argument("--dir", type=Path, required=True, help="the server's folder")
        for name, what in _ADDRESSES.items():
            parser.add_argument(f"--{name}", metavar="HOST:PORT", help=what)
        parser.add_argument("--database", metavar="URL", help="SQLite or PostgreSQL URL")
        parser.add_argument("--broker", metavar="URL", help="use this broker instead of a child")
        parser.add_argument("--blobs", metavar="FOLDER", help="where blobs lie")

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Self:
        """Load the folder's config.toml and lay the given flags over it. Raises SettingsError."""
        # Absolute, since a part may change its working folder.
        settings = cls.load(arguments.dir.absolute())
        given = {
            name: value
            for name in ("database", "broker", "blobs", *_ADDRESSES)
            if (value := getattr(arguments, name, None)) is not None
        }
        return replace(settings, **_checked(given))


_ADDRESSES = {
    "http": "console and API for people; TLS unless it is loopback",
    "devices": "HTTPS for devices",
    "mqtt": "the broker's TLS listener",
}
# name -> (least, most)
_AMOUNTS = {
    "block_bytes": (4096, 2**20),
    "merge_window_ms": (0, 60_000),
    "blocks_bytes_per_s": (0, 2**40),
    "device_bytes_per_s": (0, 2**40),
    "timeline_events": (100, 10**9),
    "http_threads": (4, 1024),
    "http_per_client": (1, 1024),
}
_ALWAYS = ("tenant", "database", "http", "devices", "mqtt", "hosts")
_KEYS = (
    *("tenant", "database", "blobs", "http", "devices", "mqtt", "broker", "hosts"),
    *("devices_url", "mqtt_public", "max_upload_bytes", "device_certificate_days"),
    *("session_hours", *_AMOUNTS, "signers"),
)


def _toml(value: object) -> str:
    """Return `value` as TOML; strings in the form that JSON and TOML share."""
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise SettingsError(f"expected printable text in {CONFIG}, got {text!r}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _within(name: str, value: int) -> int:
    least, most = _AMOUNTS[name]
    if not least <= value <= most:
        raise SettingsError(f"{CONFIG}: {name} = {value}: expected {least} to {most}")
    return value


def _checked(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments for Settings, typed. Raises SettingsError."""
    checked: dict[str, Any] = {}
    for name, value in raw.items():
        match name, value:
            case "http" | "devices" | "mqtt" | "mqtt_public", str():
                checked[name] = Address.parse(value)
            case "hosts", list() if value and all(isinstance(host, str) for host in value):
                checked[name] = tuple(value)
            case "max_upload_bytes" | "device_certificate_days" | "session_hours", int() if (
                not isinstance(value, bool) and value > 0
            ):
                checked[name] = value
            case _, int() if name in _AMOUNTS and not isinstance(value, bool):
                checked[name] = _within(name, value)
            case "signers", dict() if all(isinstance(uri, str) for uri in value.values()):
                checked[name] = dict(value)
            case "tenant" | "database" | "blobs" | "broker" | "devices_url", str() if value:
                checked[name] = value
            case _:
                known = ", ".join(_KEYS)
                raise SettingsError(f"{CONFIG}: {name} = {value!r} is not one of {known}")
    return checked
