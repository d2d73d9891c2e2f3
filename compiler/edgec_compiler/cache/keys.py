"""Keys of the cache: digests of everything that has a say in what is kept.

Whatever cannot be known is never guessed: it raises Unknowable, and nothing is kept.
"""

import csv
import functools
import hashlib
import io
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib import util
from pathlib import Path
from typing import Any

from edgec_hardware_profiles import Profile

_CODE = ("edgec_bundle", "edgec_compiler", "edgec_hardware_profiles", "edgec_runtime")
# Variables by which numerical libraries choose kernels, threads or a backend.
_VARIABLES = (
    *("GOTO_", "KERAS_", "KMP_", "LITERT_", "MKL_", "OMP_", "ONEDNN_", "OPENBLAS_"),
    *("ORT_", "TF_", "TORCH", "XNN", "VELA_", "PYTHONPATH"),
)
_CHUNK = 1 << 20
_MAX_LABELS_BYTES = 64 << 20


class Unknowable(Exception):
    """Something that has a say in the result cannot be reduced to bytes."""


def key_of(kind: str, **parts: Any) -> str:
    """Return the key of a `kind` of entry made from `parts`, which are JSON values.

    What runs and where (`environment`) is part of every key.
    """
    everything = {"kind": kind, "environment": environment(), "parts": parts}
    text = json.dumps(everything, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def environment() -> dict[str, Any]:
    """Return what runs here: edgec's own code, every installed package, the CPU, variables."""
    variables = sorted(item for item in os.environ.items() if item[0].startswith(_VARIABLES))
    return {
        "code": code_digest(),
        "packages": _packages(),
        "python": [platform.python_implementation(), platform.python_version()],
        "machine": [platform.system(), platform.machine(), *_cpu()],
        "variables": [list(item) for item in variables],
    }


def code_digest(folders: Iterable[Path] | None = None) -> str:
    """Return the digest of edgec's own sources and profiles, or of those in `folders`."""
    digest = hashlib.sha256()
    for folder in _own_folders() if folders is None else folders:
        for file in sorted(folder.rglob("*")):
            if file.suffix in (".py", ".toml", ".json", ".so") and file.is_file():
                _add_file(digest, file.relative_to(folder.parent).as_posix(), file)
    return digest.hexdigest()


def content_digest(path: Path) -> str:
    """Return the digest of a file, or of all that lies in a folder, with names and sizes.

    Raises:
        Unknowable: it cannot be read, or what it leads to lies elsewhere.
    """
    digest = hashlib.sha256()
    try:
        if path.is_file():
            _add_file(digest, "", path)
            return digest.hexdigest()
        if not path.is_dir():
            raise Unknowable(f"{path} is neither a file nor a folder")
        for parent, folders, files in os.walk(path, onerror=_refuse):
            folders.sort()
            for name in folders:
                here = Path(parent, name)
                if here.is_symlink():
                    raise Unknowable(f"{here} leads out of {path}")
                digest.update(f"folder {here.relative_to(path)}\0".encode())
            for name in sorted(files):
                here = Path(parent, name)
                if name == "labels.csv":
                    _refuse_elsewhere(here)
                _add_file(digest, str(here.relative_to(path)), here)
    except (OSError, UnicodeError) as error:
        raise Unknowable(str(error)) from error
    return digest.hexdigest()


def contents(paths: Mapping[str, str | None]) -> dict[str, str | None] | None:
    """Return the digest of each of `paths`, None for all if one cannot be known."""
    try:
        return {name: path and content_digest(Path(path)) for name, path in paths.items()}
    except Unknowable:
        return None


def refuse_vendor_programs(profile: Profile) -> None:
    """Raise Unknowable if a vendor's program is here: nobody knows what it reads besides."""
    for tool in profile.tools:
        if tool.program is not None and shutil.which(tool.program) is not None:
            raise Unknowable(f"{tool.program} is not edgec's own")


def _refuse(error: OSError) -> None:
    raise error


def _refuse_elsewhere(table: Path) -> None:
    """Refuse a labels.csv that names files outside its folder: they were not digested."""
    if table.stat().st_size > _MAX_LABELS_BYTES:
        raise Unknowable(f"{table} is too large")
    text = table.read_bytes().decode("utf-8-sig", "replace")
    try:
        for row in csv.reader(io.StringIO(text)):
            if row and (os.path.isabs(row[0].strip()) or ".." in Path(row[0].strip()).parts):
                raise Unknowable(f"{table} names files outside its folder")
    except csv.Error as error:
        raise Unknowable(str(error)) from error


def _add_file(digest: Any, name: str, file: Path) -> None:
    own, size = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            own.update(chunk)
            size += len(chunk)
    digest.update(f"file {name}\0{size}\0".encode("utf-8", "surrogateescape"))
    digest.update(own.digest())


def _own_folders() -> tuple[Path, ...]:
    found = []
    for name in _CODE:
        spec = util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).parent)
    return tuple(found)


def _packages() -> list[str]:
    """Return every installed distribution as its folder is called: name and version."""
    found: set[str] = set()
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        found.update(name for name in names if name.endswith((".dist-info", ".egg-info")))
    return sorted(found)


def _cpu() -> list[str]:
    """Return model and features of the CPU: kernels, and what they compute, depend on them."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return [platform.processor()]
    wanted = ("model name", "flags", "Features", "CPU part")
    return sorted({line for line in lines if line.startswith(wanted)})
