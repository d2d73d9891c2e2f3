"""The order for a rollout: which release, in which groups, how carefully. No I/O.

`Spec.from_json` reads what came with the request, strictly; `divide` deals devices to groups.

A group takes its devices from those that no earlier group took: a `percent` of all devices of
the rollout (rounded up; 100 takes the rest), a `count`, a list of `devices`, or every device
whose tags match a `filter`.
"""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from edgec_bundle.errors import ManifestError
from edgec_bundle.manifest import NAME
from edgec_bundle.semver import SemVer
from edgec_fleet.errors import RefusedError
from edgec_fleet.rollout.decide import Gates

MAXIMUM_GROUPS = 100
MAXIMUM_DEVICES = 20_000  # that one group lists
MAXIMUM_FILTER = 32
SELECTORS = ("percent", "count", "devices", "filter")

_GROUP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.%-]{0,62}")
_GATES = {each.name for each in fields(Gates)}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A device that a rollout could take."""

    device: str
    tags: Mapping[str, str] = field(default_factory=dict)
    online: bool = True


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """One group as ordered: `select` holds exactly one of SELECTORS."""

    name: str
    select: Mapping[str, Any]
    gates: Gates = field(default_factory=Gates)

    @property
    def is_open(self) -> bool:
        """Whether devices that come later belong to it too."""
        return "filter" in self.select or self.select.get("percent") == 100

    def takes(self, tags: Mapping[str, str]) -> bool:
        """Return whether a device with `tags` that comes later belongs to this group."""
        wanted = self.select.get("filter", {})
        return self.is_open and all(tags.get(key) == value for key, value in wanted.items())

    def to_json(self) -> dict[str, Any]:
        """Return the group as the request has it, with every default filled in."""
        return {"name": self.name, **self.select, **asdict(self.gates)}


@dataclass(frozen=True, slots=True)
class Spec:
    """The whole order."""

    model: str
    version: str
    strategy: str
    groups: tuple[GroupSpec, ...]
    rate_per_minute: float | None = None

    @classmethod
    def from_json(cls, raw: Any) -> Self:
        """Read a request. Groups left out are those of the strategy. Raises RefusedError."""
        if not isinstance(raw, Mapping):
            raise RefusedError("expected an object with model and version")
        if unknown := sorted(map(str, raw.keys() - {each.name for each in fields(cls)})):
            raise RefusedError(f"a rollout has no field {', '.join(unknown)}")
        strategy = raw.get("strategy", "canary")
        if not isinstance(strategy, str) or strategy not in PRESETS:
            raise RefusedError(f"expected a strategy of {', '.join(PRESETS)}, got {strategy!r}")
        given = raw.get("groups")
        groups = PRESETS[strategy] if given is None else _groups(given)
        return cls(
            model=_model(raw.get("model")),
            version=_version(raw.get("version")),
            strategy=strategy,
            groups=groups,
            rate_per_minute=_rate(raw.get("rate_per_minute")),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads, with every default filled in."""
        return {
            "model": self.model,
            "version": self.version,
            "strategy": self.strategy,
            "groups": [group.to_json() for group in self.groups],
            "rate_per_minute": self.rate_per_minute,
        }


_RETRIES = 2  # of what went wrong on the way; what the device judged bad is never tried again
_CAREFUL = Gates(retries=_RETRIES)  # every device must commit, no failure is allowed
_BROAD = Gates(success_threshold=0.95, error_threshold=0.05, retries=_RETRIES)

PRESETS: Mapping[str, tuple[GroupSpec, ...]] = {
    "canary": (
        GroupSpec("canary", {"count": 1}, _CAREFUL),
        GroupSpec("rest", {"percent": 100}, _BROAD),
    ),
    "staged": (
        GroupSpec("5 %", {"percent": 5}, _CAREFUL),
        GroupSpec("25 %", {"percent": 25}, _BROAD),
        GroupSpec("rest", {"percent": 100}, _BROAD),
    ),
    "all": (GroupSpec("all", {"percent": 100}, _BROAD),),
}


def divide(
    groups: Sequence[GroupSpec], candidates: Sequence[Candidate], seed: str
) -> tuple[tuple[str, ...], ...]:
    """Return the device ids of each group, in the order in which they are told.

    Devices that are online come first, since a canary that is switched off proves nothing;
    among equals the order is a shuffle that `seed` fixes, so that it is not always the same
    devices that go first.
    """
    left = sorted(candidates, key=lambda one: (not one.online, _shuffled(seed, one.device)))
    divided = []
    for group in groups:
        taken = _take(group.select, left, len(candidates))
        chosen = set(taken)
        left = [one for one in left if one.device not in chosen]
        divided.append(taken)
    return tuple(divided)


def _take(select: Mapping[str, Any], left: Sequence[Candidate], total: int) -> tuple[str, ...]:
    ids = [one.device for one in left]
    match select:
        case {"devices": listed}:
            present = set(ids)
            return tuple(device for device in listed if device in present)
        case {"filter": wanted}:
            return tuple(
                one.device
                for one in left
                if all(one.tags.get(key) == value for key, value in wanted.items())
            )
        case {"count": count}:
            return tuple(ids[:count])
        case {"percent": 100}:
            return tuple(ids)
        case {"percent": percent}:
            return tuple(ids[: math.ceil(total * percent / 100 - 1e-9)])
    raise ValueError(f"not a selector: {select!r}")


def _shuffled(seed: str, device: str) -> bytes:
    return hashlib.sha256(f"{seed}/{device}".encode()).digest()


def _groups(raw: Any) -> tuple[GroupSpec, ...]:
    if not isinstance(raw, list) or not 0 < len(raw) <= MAXIMUM_GROUPS:
        raise RefusedError(f"expected a list of 1 to {MAXIMUM_GROUPS} groups")
    groups = tuple(_group(item, index) for index, item in enumerate(raw))
    if len({group.name for group in groups}) < len(groups):
        raise RefusedError("expected groups with different names")
    return groups


def _group(raw: Any, index: int) -> GroupSpec:
    if not isinstance(raw, Mapping):
        raise RefusedError(f"group {index + 1}: expected an object")
    name = raw.get("name", f"group {index + 1}")
    if not isinstance(name, str) or not _GROUP_NAME.fullmatch(name):
        raise RefusedError(f"group {index + 1}: expected a name of up to 63 plain characters")
    if unknown := sorted(map(str, raw.keys() - {"name", *SELECTORS, *_GATES})):
        raise RefusedError(f"group {name}: there is no field {', '.join(unknown)}")
    chosen = [key for key in SELECTORS if raw.get(key) is not None]
    if len(chosen) != 1:
        raise RefusedError(f"group {name}: expected exactly one of {', '.join(SELECTORS)}")
    select = {chosen[0]: _selector(name, chosen[0], raw[chosen[0]])}
    return GroupSpec(name, select, _gates(name, raw))


def _selector(name: str, kind: str, value: Any) -> Any:
    match kind:
        case "percent" if _is_number(value) and 0 < value <= 100:
            return value
        case "count" if type(value) is int and 0 < value <= MAXIMUM_DEVICES:
            return value
        case "devices" if _is_device_list(value):
            return list(dict.fromkeys(value))
        case "filter" if _is_filter(value):
            return dict(value)
    expected = {
        "percent": "a percent above 0 and up to 100",
        "count": f"a count of 1 to {MAXIMUM_DEVICES}",
        "devices": f"a list of 1 to {MAXIMUM_DEVICES} device ids",
        "filter": f"a filter of 1 to {MAXIMUM_FILTER} tags with their values",
    }
    raise RefusedError(f"group {name}: expected {expected[kind]}, got {str(value)[:80]!r}")


def _is_device_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= MAXIMUM_DEVICES
        and all(isinstance(item, str) and NAME.fullmatch(item) for item in value)
    )


def _is_filter(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and 0 < len(value) <= MAXIMUM_FILTER
        and all(isinstance(key, str) and isinstance(item, str) for key, item in value.items())
    )


def _gates(name: str, raw: Mapping[str, Any]) -> Gates:
    given = {key: raw[key] for key in _GATES if raw.get(key) is not None}
    for key, value in given.items():
        if not _is_number(value) or value < 0:
            raise RefusedError(f"group {name}: expected {key} to be a number from 0, got {value!r}")
        if key.endswith("_threshold") and value > 1:
            raise RefusedError(f"group {name}: {key} is a fraction from 0 to 1, got {value}")
        if key in ("minimum_executed", "retries") and int(value) != value:
            raise RefusedError(f"group {name}: expected {key} to be a whole number, got {value}")
    if given.get("retries", 0) > 10:
        raise RefusedError(f"group {name}: at most 10 retries")
    if given.get("device_timeout_s", 1) <= 0:
        raise RefusedError(f"group {name}: expected device_timeout_s to be above 0")
    typed: dict[str, Any] = {
        key: int(value) if key in _WHOLE else float(value) for key, value in given.items()
    }
    return Gates(**typed)


_WHOLE = ("minimum_executed", "retries")


def _model(raw: Any) -> str:
    if isinstance(raw, str) and NAME.fullmatch(raw):
        return raw
    raise RefusedError(f"expected the name of a model, got {str(raw)[:80]!r}")


def _version(raw: Any) -> str:
    try:
        if isinstance(raw, str):
            SemVer.parse(raw)
            return raw
    except ManifestError:
        pass
    raise RefusedError(f"expected a version like 1.2.0, got {str(raw)[:80]!r}")


def _rate(raw: Any) -> float | None:
    if raw is None:
        return None
    if _is_number(raw) and 0 < raw <= 1_000_000:
        return float(raw)
    raise RefusedError(f"expected rate_per_minute to be above 0, got {str(raw)[:80]!r}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
