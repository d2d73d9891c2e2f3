"""Configuration: DIR/agent.toml, every value optional, and what flags put over it.

`load_config` reads; `AgentConfig` is what all other modules see. The reference of every key is
docs/agent.md.
"""

import dataclasses
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgec_agent.errors import ConfigError
from edgec_agent.machine import Probation, Retry
from edgec_bundle.delta import FORMATS

FILE_NAME = "agent.toml"
_MAX_BYTES = 256 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Testing:
    """How a candidate is tested before it may serve."""

    timeout_s: float = 120.0
    memory_bytes: int | None = None  # address space of the child; None: not limited
    runs: int = 20  # timed runs for the latency limit
    launcher: tuple[str, ...] = ()  # put before the child's command: ("nice", "-n10"), a sandbox


@dataclass(frozen=True, slots=True)
class Shadow:
    """How long a candidate watches live inputs before it answers; 0 samples: not at all."""

    samples: int = 0
    seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """How blobs are fetched."""

    stall_s: float = 10.0  # without a byte, after which blocks are asked for again
    stalls: int = 3  # then the other source gets its turn
    window_blocks: int = 64  # asked for ahead over MQTT, at most
    block_timeout_s: float = 180.0  # for one block or an answer's headers, however slowly they drip
    connect_timeout_s: float = 10.0
    rounds: int = 3  # through all sources without any progress, then the update waits
    largest_bytes: int = 2**32 - 1  # a blob above this is refused
    delta_formats: tuple[str, ...] = ()  # of patches; none named: all that are quick to apply here


@dataclass(frozen=True, slots=True)
class Link:
    """How the connection to the broker is kept."""

    keepalive_s: int = 30
    backoff_s: float = 1.0
    longest_backoff_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Outbox:
    """How much is kept for the server while it cannot be reached."""

    events: int = 2000
    telemetry: int = 100  # windows; the oldest are merged first
    bytes: int = 16 * 2**20


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """Everything that can be set, with its defaults."""

    profiles: tuple[str, ...] = ()  # accepted hardware profiles; (): as enrolled
    threads: int = 1  # inside one run of a model
    telemetry_s: float = 60.0
    memory_reserve_bytes: int = 64 * 2**20  # left free when a second model is loaded
    boots: int = 3  # starts in a row that may die with a model before its predecessor returns
    probation: Probation = field(default_factory=Probation)
    shadow: Shadow = field(default_factory=Shadow)
    retry: Retry = field(default_factory=Retry)
    testing: Testing = field(default_factory=Testing)
    transfer: Transfer = field(default_factory=Transfer)
    link: Link = field(default_factory=Link)
    outbox: Outbox = field(default_factory=Outbox)


def load_config(folder: Path, overrides: Mapping[str, Any] | None = None) -> AgentConfig:
    """Return the configuration in `folder`, with `overrides` put over it.

    Args:
        overrides: dotted key -> value, as in ``{"probation.samples": 50}``; None values are
            left out, so that flags that were not given change nothing.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown or of a wrong kind.
    """
    raw = _read(folder / FILE_NAME)
    for key, value in (overrides or {}).items():
        if value is None:
            continue
        *tables, last = key.split(".")
        table = raw
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value
    config = _build(AgentConfig, raw, "")
    _check(config)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            payload = file.read(_MAX_BYTES + 1)
        if len(payload) > _MAX_BYTES:
            raise ConfigError(f"{path}: expected at most {_MAX_BYTES} bytes")
        return tomllib.loads(payload.decode("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _build(cls: type[_T], raw: Mapping[str, Any], prefix: str) -> _T:
    fields = {one.name: one for one in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in fields:
            raise ConfigError(f"{FILE_NAME}: unknown key {prefix}{key}")
        values[key] = _convert(_default(fields[key]), value, f"{prefix}{key}")
    return cls(**values)


def _default(one: "dataclasses.Field[Any]") -> Any:
    if one.default_factory is not dataclasses.MISSING:
        return one.default_factory()
    return one.default


def _convert(default: Any, value: Any, key: str) -> Any:
    """Return `value` as the type of `default`."""
    if dataclasses.is_dataclass(default):
        if isinstance(value, Mapping):
            return _build(type(default), value, f"{key}.")
    elif isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        pass
    elif isinstance(default, float):
        return float(value)
    elif isinstance(value, int):  # the default is an int, or None for "not limited"
        return value
    expected = {float: "a number", tuple: "a list of texts"}.get(type(default), "an integer")
    if dataclasses.is_dataclass(default):
        expected = "a table"
    raise ConfigError(f"{FILE_NAME}: {key}: expected {expected}, got {value!r}")


def _check(config: AgentConfig) -> None:
    for name in config.profiles:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{FILE_NAME}: profiles: not a profile's name: {name!r}")
    for name in config.transfer.delta_formats:
        if name not in FORMATS:
            raise ConfigError(
                f"{FILE_NAME}: transfer.delta_formats: expected some of {', '.join(FORMATS)}, "
                f"got {name!r}"
            )
    fraction = config.probation.minimum_agreement
    if not 0 <= fraction <= 1:
        raise ConfigError(
            f"{FILE_NAME}: probation.minimum_agreement: expected 0 to 1, got {fraction:g}"
        )
    for key, value in _numbers(config, ""):
        if not 0 <= value < float("inf"):
            raise ConfigError(f"{FILE_NAME}: {key}: expected 0 or more, got {value:g}")
    positive = ("threads", "telemetry_s", "boots", "link.keepalive_s", "transfer.window_blocks")
    for key, value in _numbers(config, ""):
        if key in positive and value <= 0:
            raise ConfigError(f"{FILE_NAME}: {key}: expected more than 0, got {value:g}")


def _numbers(part: Any, prefix: str) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for one in dataclasses.fields(part):
        value = getattr(part, one.name)
        if dataclasses.is_dataclass(value):
            found += _numbers(value, f"{prefix}{one.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}{one.name}", value))
    return found


def default_folder() -> Path:
    """Return where an agent keeps its things unless told otherwise."""
    return Path(os.environ.get("EDGEC_DIR", "/var/lib/edgec"))
