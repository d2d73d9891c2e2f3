"""A compile run that makes only what no equal run has made before."""

import contextlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgec_bundle.errors import BundleError
from edgec_compiler.cache import bundles
from edgec_compiler.cache.store import Store, open_store
from edgec_compiler.errors import UsageError
from edgec_compiler.importers.sniff import kind_of
from edgec_compiler.isolated import compile_isolated
from edgec_compiler.locking import check_lock, write_lock
from edgec_compiler.options import CompileOptions
from edgec_compiler.planning import Plan

Event = dict[str, Any]


def compile_remembered(
    options: CompileOptions, plans: Sequence[Plan]
) -> Generator[Event, None, None]:
    """Yield the events of `compile_isolated`; facts of a result say whether it was "cached".

    Bundles of equal earlier runs are written again first. Raises CompilerError.
    """
    started, now = time.monotonic(), time.time_ns()
    store = None if options.cache is None else open_store(options.cache)
    before = None if store is None else bundles.snapshot(options)
    left = list(plans)
    if store is not None and before is not None:
        for one, kept in _found(store, options, before, plans):
            left.remove(one)
            yield _restored(options, one, kept, time.monotonic() - started)
    if not left:
        return
    by_name = {one.profile.name: one for one in left}
    with contextlib.closing(compile_isolated(_only(options, plans, left))) as events:
        for event in events:
            if event["event"] == "result" and event["facts"] is not None:
                event["facts"]["cached"] = False
                if store is not None and before is not None:
                    _keep(store, options, by_name[event["target"]], event, before, now)
            yield event


def _found(
    store: Store, options: CompileOptions, before: Mapping[str, Any], plans: Sequence[Plan]
) -> Iterator[tuple[Plan, bundles.Kept]]:
    reads = bundles.recall_reads(store, options.model)
    if reads is None:
        return
    parts = bundles.snapshot(options, reads) if reads else before
    for one in plans:
        key = None if parts is None else bundles.bundle_key(parts, one.profile, one.format)
        kept = None if key is None else bundles.find(store, key)
        if kept is not None:
            yield one, kept


def _restored(options: CompileOptions, one: Plan, kept: bundles.Kept, seconds: float) -> Event:
    inputs, tools = (_texts(kept.manifest.lineage.get(key)) for key in ("inputs", "tools"))
    if options.locked is not None:
        check_lock(Path(options.locked), inputs, tools, options.unlike)
    try:
        kept.write(one.out)
    except BundleError as error:
        raise UsageError(f"--out: {error}") from error
    if options.lock is not None:
        write_lock(Path(options.lock), inputs, tools)
    own = {"bundle": str(one.out), "seconds": round(seconds, 3), "cached": True}
    facts = {**kept.facts, **own}
    ended = {"error": None, "exit_code": 0}
    return {"event": "result", "target": one.profile.name, "facts": facts, **ended}


def _texts(values: Any) -> dict[str, str]:
    return {str(name): str(value) for name, value in dict(values or {}).items()}


def _only(options: CompileOptions, plans: Sequence[Plan], left: Sequence[Plan]) -> CompileOptions:
    """Return the options that make the targets `left` of all `plans`, each where it belongs."""
    targets = tuple(
        target for target, one in zip(options.targets, plans, strict=True) if one in left
    )
    out = str(left[0].out) if len(left) == 1 else options.out
    return replace(options, targets=targets, out=out)


def _keep(
    store: Store,
    options: CompileOptions,
    one: Plan,
    event: Event,
    before: Mapping[str, Any],
    started_ns: int,
) -> None:
    """Keep a bundle, if nothing that it was made from has changed since the run began."""
    reads = event["reads"]
    if (event["facts"].get("search") or {}).get("stopped") == "time":
        return  # with more time it might become another
    if bundles.snapshot(options) != before or not _older(options.model, reads, started_ns):
        return
    parts = bundles.snapshot(options, reads)
    key = None if parts is None else bundles.bundle_key(parts, one.profile, one.format)
    if key is not None:
        bundles.remember_reads(store, options.model, reads)
        bundles.keep(store, key, one.out, event["facts"])


def _older(model: str, reads: Sequence[str], started_ns: int) -> bool:
    """Return whether the files beside a model were last changed before the run began."""
    folder = kind_of(model)[1].parent
    with contextlib.suppress(OSError):
        return all((folder / name).stat().st_ctime_ns < started_ns for name in reads)
    return False
