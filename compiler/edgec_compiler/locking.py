"""Lock files: which tools and inputs a bundle was made with, and the refusal of any other."""

import json
from collections.abc import Mapping
from pathlib import Path

from edgec_compiler.errors import NotAchievedError, UsageError
from edgec_compiler.records import Inputs

_MAX_BYTES = 1 << 20


def write_lock(path: Path, inputs: Inputs, tools: Mapping[str, str]) -> None:
    """Write the digests and versions of this run to `path`. Raises UsageError."""
    facts = {"schema": 1, "inputs": inputs.to_dict(), "tools": dict(tools)}
    try:
        path.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", "utf-8")
    except OSError as error:
        raise UsageError(f"--lock {path}: {error.strerror or error}") from error


def check_lock(path: Path, inputs: Inputs, tools: Mapping[str, str]) -> None:
    """Return if this run's inputs and tools are those of the lock file.

    Raises:
        UsageError: the lock file cannot be read.
        NotAchievedError: something differs; each difference is named.
    """
    try:
        raw = json.loads(path.read_bytes()[:_MAX_BYTES])
        wanted = {kind: dict(raw[kind]) for kind in ("inputs", "tools")}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"--locked {path}: not a readable lock file") from error
    differences = []
    for kind, found in (("inputs", inputs.to_dict()), ("tools", dict(tools))):
        for name in sorted(wanted[kind].keys() | found.keys()):
            old, new = wanted[kind].get(name), found.get(name)
            if old != new:
                differences.append(f"{name}: locked {old}, here {new}")
    if differences:
        raise NotAchievedError(f"--locked {path}: {'; '.join(differences)}")
