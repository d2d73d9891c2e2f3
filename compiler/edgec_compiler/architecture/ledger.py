"""What a search has found so far, in a file that a second run goes on from."""

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgec_compiler.architecture.candidates import Candidate, Sizes
from edgec_compiler.errors import UsageError

_FILE = "search.json"
_MAX_BYTES = 16 << 20
Schedule = tuple[int, ...]  # the epochs of each round that a net was trained for


@dataclass(slots=True)
class Ledger:
    """Sizes and scores by candidate; every entry is on disk before it is used."""

    folder: Path
    key: str  # of everything that has a say in the results
    held: int  # the open folder, by which other searches are kept out
    sizes: dict[Candidate, Sizes] = field(default_factory=dict)
    refused: dict[Candidate, str] = field(default_factory=dict)
    # By the epochs of each round of training; None: the score was no number, it diverged.
    scores: dict[Schedule, dict[Candidate, float | None]] = field(default_factory=dict)

    @classmethod
    def opened(cls, folder: Path, key: str) -> "Ledger":
        """Return the ledger in `folder`, or a new one.

        Raises:
            UsageError: the folder holds another search's, or a damaged one.
        """
        path = folder / _FILE
        if not path.exists():
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"--out {folder}: {error.strerror or error}") from error
            if any(folder.iterdir()):
                raise UsageError(f"--out {folder}: not empty, and not of a search")
            return cls(folder, key, _held(folder))
        held = _held(folder)
        try:
            return cls._read(folder, key, held)
        except BaseException:
            os.close(held)
            raise

    @classmethod
    def _read(cls, folder: Path, key: str, held: int) -> "Ledger":
        path = folder / _FILE
        try:
            raw = json.loads(path.read_bytes()[:_MAX_BYTES])
            if raw["key"] != key:
                raise UsageError(
                    f"--out {folder}: holds a search with another recipe, target or seed, or with "
                    "other versions of packages; choose another folder, or delete it"
                )
            return cls(
                folder,
                key,
                held,
                {_candidate(one): Sizes.from_dict(two) for one, two in raw["sizes"].items()},
                {_candidate(one): str(two) for one, two in raw["refused"].items()},
                {
                    tuple(map(int, epochs.split("+"))): {
                        _candidate(one): None if two is None else float(two)
                        for one, two in found.items()
                    }
                    for epochs, found in raw["scores"].items()
                },
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: damaged; delete the folder to start anew") from error

    def close(self) -> None:
        """Let other searches into the folder."""
        os.close(self.held)

    def save(self) -> None:
        """Replace the file."""
        raw = {
            "key": self.key,
            "sizes": {_text(one): two.to_dict() for one, two in sorted(self.sizes.items())},
            "refused": {_text(one): two for one, two in sorted(self.refused.items())},
            "scores": {
                "+".join(map(str, epochs)): {_text(one): two for one, two in sorted(found.items())}
                for epochs, found in sorted(self.scores.items())
            },
        }
        path = self.folder / _FILE
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(raw, indent=2) + "\n")
        os.replace(partial, path)


def key_of(code: Sequence[str], facts: Mapping[str, Any]) -> str:
    """Return a digest of the recipe's code, the files `code`, and of everything in `facts`."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for file in sorted(map(Path, code)):
        digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _held(folder: Path) -> int:
    """Return `folder`, open and locked: two searches there would spoil each other's files."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UsageError(f"--out {folder}: another search is at work there") from error
    return handle


def _text(candidate: Candidate) -> str:
    return f"{candidate.width!r} {candidate.depth!r}"


def _candidate(text: str) -> Candidate:
    width, depth = text.split(" ")
    return Candidate(float(width), float(depth))
