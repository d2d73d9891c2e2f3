"""One patch, made in a child process with a cap on its CPU time, behind everything else.

Imports no more than it needs: a child starts for the first patch and after each that was killed.
"""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from edgec_bundle.delta import make_patch
from edgec_bundle.store import FolderBlobStore
from edgec_fleet._child import die_with_parent

CPU_S = 900  # for one patch; then its child is killed
_NICENESS = 10  # blocks and messages come first


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a patch, as the table `patches` has it."""

    state: str  # "ready" | "larger" | "failed"
    sha256: str | None = None
    bytes: int | None = None
    reason: str | None = None
    cpu_s: float = 0.0


def prepare(parent: int) -> None:
    """Make this process a child that encodes: it ends with its parent, and yields to it."""
    die_with_parent(parent)
    os.nice(_NICENESS)


def make(folder: Path, base: str, new: str, name: str, cpu_s: int = CPU_S) -> Outcome:
    """Make one patch and store it. The process is killed if that takes more than `cpu_s`.

    Args:
        folder: of the blob store.
        base: digest of the old file.
        new: digest of the new one.
        name: the patch's format.
        cpu_s: CPU seconds it may take.
    """
    start = time.process_time()
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(start) + cpu_s + 1, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the end is no crash to look into
    store = FolderBlobStore(folder)
    try:
        patch = make_patch(store.read(base), store.read(new), (name,))
    except Exception as error:  # the edge: zstd, too, has errors of its own when memory is short
        spent = time.process_time() - start
        return Outcome("failed", reason=f"{type(error).__name__}: {error}", cpu_s=spent)
    spent = time.process_time() - start
    if patch is None:
        reason = "not clearly smaller than the compressed file"
        return Outcome("larger", reason=reason, cpu_s=spent)
    return Outcome("ready", store.put(patch.data), len(patch.data), cpu_s=spent)
