"""The acceptance role's document: per model line a labelled set, and how well it must be met."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from tuf.api.metadata import Metadata, TargetFile, Targets

from edgec_bundle.digest import is_digest
from edgec_bundle.errors import MetadataError
from edgec_bundle.manifest import NAME
from edgec_bundle.trust.metadata import load, utc

_PATH = re.compile(rf"acceptance/({NAME.pattern})\.npz")
_SCORE = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,20})?")


@dataclass(frozen=True, slots=True)
class AcceptanceSet:
    """A labelled .npz, and the lowest `metric` on it with which a release may serve."""

    sha256: str
    bytes: int
    minimum: float
    metric: str = "accuracy"


def next_acceptance(
    current: bytes | None,
    changes: Mapping[str, AcceptanceSet | None],
    *,
    expires: datetime,
    version: int | None = None,
) -> Metadata[Targets]:
    """Return the unsigned successor of `current` with the sets in `changes`; None removes one.

    Args:
        current: the acceptance.json now in force, None for the first.
        changes: by model name.
        expires: of the new document.
        version: of the new document; by default one above `current`.
    """
    before = load(current, Targets).signed if current is not None else None
    listed = {} if before is None else dict(before.targets)
    for model, entry in changes.items():
        path = acceptance_path(model)
        if entry is None:
            listed.pop(path, None)
        else:
            listed[path] = _target(path, entry)
    number = version or (1 if before is None else before.version + 1)
    return Metadata(Targets(version=number, expires=utc(expires), targets=listed))


def acceptance_path(model: str) -> str:
    """Return under which name the acceptance set of `model` is signed."""
    path = f"acceptance/{model}.npz"
    if not _PATH.fullmatch(path):
        raise ValueError(f"not a model name: {model!r}")
    return path


def _target(path: str, entry: AcceptanceSet) -> TargetFile:
    custom = {"minimum": format(entry.minimum, "f"), "metric": entry.metric}
    target = TargetFile(entry.bytes, {"sha256": entry.sha256}, path, {"custom": custom})
    _entry(target)  # refuses what devices would refuse
    return target


def acceptance_sets(document: Targets) -> Mapping[str, AcceptanceSet]:
    """Return the acceptance sets in the verified `document`, by model. Raises MetadataError."""
    found = {}
    for path, target in document.targets.items():
        match = _PATH.fullmatch(path)
        if match is None:
            raise MetadataError("acceptance: expected paths like acceptance/MODEL.npz")
        found[match[1]] = _entry(target)
    return MappingProxyType(found)


def _entry(target: TargetFile) -> AcceptanceSet:
    match target.custom, target.hashes:
        case {"minimum": str(minimum), "metric": str(metric)}, {"sha256": sha256} if (
            _SCORE.fullmatch(minimum)
            and NAME.fullmatch(metric)
            and is_digest(sha256)
            and type(target.length) is int
        ):
            return AcceptanceSet(sha256, target.length, float(minimum), metric)
    raise MetadataError("acceptance: expected minimum, metric and sha256 of each set")
