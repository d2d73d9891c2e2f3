"""Finished bundles of earlier runs: an equal run writes them again without making anything."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgec_bundle.archive import Bundle, open_bundle, write_bundle
from edgec_bundle.digest import sha256_hex
from edgec_bundle.errors import BundleError
from edgec_bundle.manifest import MANIFEST_NAME, Manifest
from edgec_compiler.cache.keys import (
    Unknowable,
    content_digest,
    key_of,
    refuse_vendor_programs,
)
from edgec_compiler.cache.store import Entry, Store
from edgec_compiler.errors import CompilerError
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.options import CompileOptions
from edgec_hardware_profiles import Profile

_BESIDE = ("measurements.json", "report.html")
# Every option is exactly one of these; one that is none of them keeps its run out of the cache.
CONTENT = frozenset({"calibration", "evaluation", "preprocessing", "labels", "delta_base"})
ELSEWHERE = frozenset(
    {
        *("model", "targets", "out", "lock", "locked", "unlike", "cache", "jobs"),
        *("search_budget", "max_layers", "noise_ranges"),
    }
)
VALUES = frozenset(
    {
        *("format", "name", "version", "release", "shapes", "precision", "max_accuracy_drop"),
        *("delta_budget", "seed", "float_layers", "calibration_method", "equalise"),
        *("bias_correction", "optimize_for", "max_candidates", "compress"),
    }
)


@dataclass(frozen=True, slots=True)
class Kept:
    """A bundle as it was written by an earlier, equal run."""

    manifest: Manifest
    contents: Mapping[str, tuple[str, bytes]]
    neighbours: Mapping[str, bytes]
    facts: Mapping[str, Any]

    def write(self, out: Path) -> Bundle:
        """Write the bundle, whole or not at all. Raises BundleError."""
        return write_bundle(out, self.manifest, self.contents, self.neighbours)


def snapshot(options: CompileOptions, reads: Iterable[str] = ()) -> dict[str, Any] | None:
    """Return all that `options` lead to, by content, as parts of a key; None if it is not known.

    Not known is what nothing vouches for: a model made by a program, files that cannot be read.

    Args:
        options: of the run.
        reads: the files beside the model that belong to it.
    """
    given = options.to_dict()
    try:
        _refuse_unsorted(options)
        kind, path, _ = kind_of(options.model)
        if kind == "factory":
            raise Unknowable("a program may read anything")
        if options.compress.fine_tune or options.compress.distill:
            raise Unknowable("training code may read anything")
        model = [path.name, content_digest(path)]
        beside = [[name, content_digest(path.parent / name)] for name in sorted(reads)]
        files = {name: content_digest(Path(given[name])) for name in sorted(CONTENT) if given[name]}
    except (Unknowable, CompilerError):
        return None
    values = {name: given[name] for name in sorted(VALUES)}
    if options.float_layers:  # a name that this target lacks is an error unless another has it
        values["targets"] = sorted(options.targets)
    return {"model": [model, beside], "files": files, "options": values}


def bundle_key(parts: Mapping[str, Any], profile: Profile, fmt: str) -> str | None:
    """Return the key of a target's bundle, None if a vendor's program has a say in it."""
    try:
        refuse_vendor_programs(profile)
    except Unknowable:
        return None
    return key_of("bundle", **parts, profile=repr(profile), format=fmt)


def remember_reads(store: Store, model: str, names: Sequence[str]) -> None:
    """Keep which files beside `model` belong to it: its own bytes alone decide that."""
    with contextlib.suppress(Unknowable):
        store.put(_reads_key(model), Entry({"files": list(names)}, {}))


def recall_reads(store: Store, model: str) -> tuple[str, ...] | None:
    """Return what `remember_reads` kept, or None."""
    try:
        entry = store.get(_reads_key(model))
    except Unknowable:
        return None
    names = None if entry is None else entry.facts.get("files")
    if not isinstance(names, list) or not all(type(name) is str for name in names):
        return None
    return tuple(names)


def keep(store: Store, key: str, out: Path, facts: Mapping[str, Any]) -> None:
    """Keep the bundle in the folder `out`, which a run has just made."""
    try:
        bundle = open_bundle(out)
        blobs = {entry.role: bundle.read(entry.role) for entry in bundle.manifest.files}
        beside = {name: bundle.neighbour(name) for name in _BESIDE}
    except BundleError:
        return
    if bundle.digest != facts["sha256"]:
        return  # another run has written there meanwhile
    named = {f"+{name}": data for name, data in beside.items() if data is not None}
    everything = {MANIFEST_NAME: bundle.manifest_bytes, **blobs, **named}
    store.put(key, Entry({"facts": dict(facts)}, everything))


def find(store: Store, key: str) -> Kept | None:
    """Return the bundle kept under `key`; anything that is not wholly right counts as absent."""
    entry = store.get(key)
    if entry is None:
        return None
    try:
        facts = entry.facts["facts"]
        payload = entry.blobs[MANIFEST_NAME]
        manifest = Manifest.from_bytes(payload)
        contents = {one.role: (one.path, entry.blobs[one.role]) for one in manifest.files}
        pinned = all(sha256_hex(contents[one.role][1]) == one.sha256 for one in manifest.files)
        if not pinned or sha256_hex(payload) != facts["sha256"]:
            return None
    except (KeyError, TypeError, BundleError):
        return None
    beside = {name[1:]: data for name, data in entry.blobs.items() if name.startswith("+")}
    if not set(beside) <= set(_BESIDE):
        return None
    return Kept(replace(manifest, files=()), contents, beside, facts)


def _reads_key(model: str) -> str:
    return key_of("reads", model=content_digest(kind_of(model)[1]))


def _refuse_unsorted(options: CompileOptions) -> None:
    """Raise Unknowable for an option in use that nobody has sorted in above."""
    for field in fields(options):
        sorted_in = field.name in CONTENT | ELSEWHERE | VALUES
        if not sorted_in and getattr(options, field.name) != field.default:
            raise Unknowable(f"the option {field.name}")
