"""Lock files: what a bundle was made with and how, and the refusal of anything else.

Four parts: `inputs` (sha256 of the model and of every file given), `tools` (versions), `options`
(all that have a say in a bundle but its name, version and release), `targets` (sha256 of each
profile's content).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgec_compiler.errors import NotAchievedError, UsageError
from edgec_compiler.options import CompileOptions
from edgec_hardware_profiles import Profile

_MAX_BYTES = 1 << 20
_FILES = ("calibration", "evaluation", "preprocessing", "labels", "delta_base")  # by their content
_ELSEWHERE = frozenset(
    {
        *("model", "targets", "out", "lock", "locked", "unlike", "jobs", "cache"),
        *("search_budget", "name", "version", "release"),
        *_FILES,
    }
)


def check_place(path: Path) -> None:
    """Return if a lock file can be put at `path`, as far as names tell. Raises UsageError."""
    if path.is_dir():
        raise UsageError(f"--lock {path}: expected the name of a file, but a folder is there")
    if not path.parent.is_dir():
        raise UsageError(f"--lock {path}: there is no folder {path.parent}")


def write_lock(path: Path, inputs: Mapping[str, str], tools: Mapping[str, str]) -> None:
    """Write the digests and versions of this run to `path`. Raises UsageError."""
    _write(path, {"schema": 1, "inputs": dict(inputs), "tools": dict(tools)})


def check_lock(
    path: Path, inputs: Mapping[str, str], tools: Mapping[str, str], others: Sequence[str] = ()
) -> None:
    """Return if this run's inputs and tools are those of the lock file, and nothing else differs.

    Args:
        path: the lock file.
        inputs: sha256 by what was given.
        tools: versions by package.
        others: `differences` that are known already, to be told together.

    Raises:
        UsageError: the lock file cannot be read.
        NotAchievedError: something differs; each difference is named.
    """
    found = [*_differences(path, {"inputs": dict(inputs), "tools": dict(tools)}), *others]
    if found:
        raise NotAchievedError(f"--locked {path}: {'; '.join(found)}")


def lock_run(path: Path, options: CompileOptions, profiles: Sequence[Profile]) -> None:
    """Add options and profiles to the lock file that `write_lock` began. Raises UsageError."""
    if path.exists():  # no target got as far as to begin it otherwise
        _write(path, {**_read(path), **_run(options, profiles)})


def differences(
    path: Path, options: CompileOptions, profiles: Sequence[Profile]
) -> tuple[str, ...]:
    """Return how this run's options and profiles differ from the lock file's, in words.

    They are known before the model is opened, which `check_lock` has to wait for.

    Raises:
        UsageError: the lock file cannot be read.
    """
    return _differences(path, _run(options, profiles))


def _run(options: CompileOptions, profiles: Sequence[Profile]) -> dict[str, dict[str, Any]]:
    given = {name: value for name, value in options.to_dict().items() if name not in _ELSEWHERE}
    plain = json.loads(json.dumps(given, sort_keys=True))
    return {"options": plain, "targets": {one.name: profile_digest(one) for one in profiles}}


def profile_digest(profile: Profile) -> str:
    """Return the sha256 of what a profile says, however its file is written."""
    text = json.dumps(asdict(profile), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _differences(path: Path, here: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    wanted = _read(path)
    found = []
    for kind, given in here.items():
        locked = wanted.get(kind)
        if not isinstance(locked, dict):
            raise UsageError(f"--locked {path}: not a readable lock file: it has no {kind}")
        old, new = _flat(locked), _flat(given)
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                words = f"locked {_told(old.get(name))}, here {_told(new.get(name))}"
                found.append(f"{kind[:-1]} {name}: {words}")
    return tuple(found)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with those of objects within under names of their own."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value) if isinstance(value, dict) else {}
        found |= {f"{name} {key}": one for key, one in inner.items()} or {name: value}
    return found


def _told(value: Any) -> str:
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_bytes()[:_MAX_BYTES])
    except OSError as error:
        raise UsageError(f"--locked {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--locked {path}: not a readable lock file") from error
    if not isinstance(raw, dict):
        raise UsageError(f"--locked {path}: not a readable lock file")
    return raw


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"--lock {path}: {error.strerror or error}") from error
