"""From an assignment to a tested candidate: offered, fetching, patching, verifying, testing.

Each step does its work again harmlessly if it was killed half-way, and ends with one entry in the
journal. None of them touches what is being served. Errors that another try may cure are left to
the updater; refusals for good end here.
"""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from edgec_agent.download import BlockSource, Fetched
from edgec_agent.eligibility import refusal
from edgec_agent.errors import CorruptBlobError, FetchError, NotOfferedError, OfflineError
from edgec_agent.machine import Phase
from edgec_agent.offer import Assigned, Offer
from edgec_agent.parts import Parts
from edgec_agent.state import Moved, Update
from edgec_bundle.delta import FORMATS, apply_patch
from edgec_bundle.errors import (
    BlobMissingError,
    DeltaError,
    DigestMismatchError,
    ManifestError,
    StoreError,
)
from edgec_bundle.manifest import MAX_MANIFEST_BYTES, Manifest
from edgec_bundle.messages import PatchSource
from edgec_bundle.store import sha256_of
from edgec_runtime.selftest import Acceptance, SelfTestResult, run_selftest

logger = logging.getLogger(__name__)

MAX_REFUSED_PATCHES = 3  # then the full file
MAX_STUMBLES = 3  # over one patch that nobody sends; then the next one, or the full file
MAX_CORRUPT = 3  # finished files found wrong; then the storage is to blame
_DEFINITE = frozenset({"refused", "memory"})  # causes of a failed self-test that would repeat


@dataclass(frozen=True, slots=True)
class Want:
    """A file that the candidate needs: size and digest are from signed documents."""

    role: str
    sha256: str
    bytes: int


def wants(manifest: Manifest, assigned: Assigned) -> tuple[Want, ...]:
    """Return every file that must be here before the test, besides the manifest."""
    files = [Want(entry.role, entry.sha256, entry.bytes) for entry in manifest.shipped()]
    if assigned.acceptance is not None:
        trusted = assigned.acceptance
        files.append(Want("acceptance", trusted.sha256, trusted.bytes))
    return tuple(files)


def choose_patch(
    want: Want, patches: Sequence[PatchSource], refused: Sequence[str], has: Callable[[str], bool]
) -> PatchSource | None:
    """Return the smallest patch that can be used here, or None: the full file.

    Not one that failed before, nor any after three that did; not from a base that is not here;
    not in a format that is unknown here; not one that is no smaller than the file.
    """
    if len(refused) >= MAX_REFUSED_PATCHES:
        return None
    usable = [
        patch
        for patch in patches
        if patch.sha256 not in refused
        and patch.format in FORMATS
        and patch.bytes < want.bytes
        and patch.base != want.sha256
        and has(patch.base)
    ]
    return min(usable, key=lambda patch: patch.bytes, default=None)


PREPARED_IN = (Phase.OFFERED, Phase.FETCHING, Phase.PATCHING, Phase.VERIFYING, Phase.TESTING)


class Preparation:
    """Executes the steps before an update touches serving."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._sources: Sequence[BlockSource] = ()  # of the step in progress

    def step(
        self, update: Update, offer: Offer, sources: Sequence[BlockSource] | None = None
    ) -> Update:
        """Do the next step of `update`; return it as it is afterwards.

        Args:
            update: in a phase before STAGED.
            offer: the newest verified assignment.
            sources: where blobs come from; None: from the server.

        Raises:
            FetchError, StoreError: another try may succeed.
            InterruptedWorkError: something more urgent came.
        """
        assigned = offer.find(update.model, update.manifest)
        if assigned is None:
            return self._parts.journal.move(update, Phase.IDLE, "no longer assigned")
        self._sources = self._parts.sources(offer) if sources is None else sources
        if update.phase is Phase.OFFERED:
            return self._offered(update, assigned, offer)
        manifest = self._parts.manifest(update.manifest)
        match update.phase:
            case Phase.FETCHING:
                return self._fetching(update, wants(manifest, assigned), offer)
            case Phase.PATCHING:
                return self._patching(update, wants(manifest, assigned), offer)
            case Phase.VERIFYING:
                return self._verifying(update, wants(manifest, assigned))
            case Phase.TESTING:
                return self._testing(update, manifest, assigned)
        raise RuntimeError(f"no step of preparation: {update.phase}")

    # -- offered -----------------------------------------------------------------------------

    def _offered(self, update: Update, assigned: Assigned, offer: Offer) -> Update:
        parts = self._parts
        if assigned.bytes > MAX_MANIFEST_BYTES:
            return parts.journal.move(update, Phase.REJECTED, "its manifest is too large")
        fetched = self._fetch(assigned.sha256, assigned.bytes, offer)
        try:
            manifest = parts.manifest(update.manifest)
        except ManifestError as error:
            return parts.journal.move(update, Phase.REJECTED, f"not a manifest: {error}")
        reason = refusal(
            manifest,
            (assigned.model, assigned.version, assigned.profile),
            parts.facts,
            parts.state.floor_release(update.model),
            offer.rollbacks,
        )
        if reason is not None:
            return parts.journal.move(update, Phase.REJECTED, reason)
        total = assigned.bytes + sum(want.bytes for want in wants(manifest, assigned))
        moved = replace(_cost(update.moved, fetched), full_bytes=total)
        return parts.journal.move(replace(update, moved=moved), Phase.FETCHING)

    # -- fetching ----------------------------------------------------------------------------

    def _fetching(self, update: Update, files: Sequence[Want], offer: Offer) -> Update:
        for want in files:
            update = self._fetch_file(update, want, offer)
        left = [want for want in files if not self._parts.store.has(want.sha256)]
        following = Phase.PATCHING if left else Phase.VERIFYING
        return self._parts.journal.move(update, following, evidence=_transfer(update))

    def _fetch_file(self, update: Update, want: Want, offer: Offer) -> Update:
        """Bring `want`, or a patch that leads to it, into the store."""
        store = self._parts.store
        patches = offer.patches.get(want.sha256, ())
        for _ in range(MAX_REFUSED_PATCHES + 1):
            if store.has(want.sha256):
                return update
            patch = choose_patch(want, patches, update.moved.refused, store.has)
            if patch is None:
                return self._count(update, self._fetch(want.sha256, want.bytes, offer))
            try:
                self._reserve(want, offer)
                return self._count(update, self._fetch(patch.sha256, patch.bytes, offer))
            except OfflineError:
                raise
            except (NotOfferedError, CorruptBlobError) as error:
                logger.warning("patch %s: %s", patch.sha256[:12], error)
                update = self._refuse(update, patch)
            except FetchError as error:
                update = self._stumble(update, patch, error)
                if patch.sha256 not in update.moved.refused:
                    raise
        raise FetchError(f"nothing leads to the {want.role} file")

    def _fetch(self, sha256: str, size: int, offer: Offer) -> Fetched:
        return self._parts.downloader.fetch(sha256, size, self._sources, offer.block_bytes)

    def _reserve(self, want: Want, offer: Offer) -> None:
        """Hold the room that the patched file will need, before its patch costs anything.

        Raises NoSpaceError.
        """
        self._parts.store.begin(want.sha256, want.bytes, offer.block_bytes).close()

    def _stumble(self, update: Update, patch: PatchSource, error: FetchError) -> Update:
        """Note that the patch could not be fetched; refuse it the third time."""
        if error.progressed:
            return update
        stumbled = (*update.moved.stumbled, patch.sha256)
        update = replace(update, moved=replace(update.moved, stumbled=stumbled))
        if stumbled.count(patch.sha256) >= MAX_STUMBLES:
            return self._refuse(update, patch)
        self._parts.state.save_update(update)
        return update

    def _count(self, update: Update, fetched: Fetched) -> Update:
        update = replace(update, moved=_cost(update.moved, fetched))
        self._parts.state.save_update(update)
        return update

    def _refuse(self, update: Update, patch: PatchSource) -> Update:
        refused = (*update.moved.refused, patch.sha256)
        update = replace(update, moved=replace(update.moved, refused=refused))
        self._parts.state.save_update(update)
        return update

    # -- patching ----------------------------------------------------------------------------

    def _patching(self, update: Update, files: Sequence[Want], offer: Offer) -> Update:
        parts = self._parts
        for want in files:
            if parts.store.has(want.sha256):
                continue
            patches = offer.patches.get(want.sha256, ())
            patch = choose_patch(want, patches, update.moved.refused, parts.store.has)
            if patch is None or not parts.store.has(patch.sha256):
                reason = f"the patch of the {want.role} file is gone"
                return parts.journal.move(update, Phase.FETCHING, reason)
            try:
                self._apply(patch, want, offer)
            except (DeltaError, DigestMismatchError, BlobMissingError) as error:
                return self._patch_refused(update, want, patch, error)
            update = replace(update, moved=replace(update.moved, patched=True))
        return parts.journal.move(update, Phase.VERIFYING, evidence=_transfer(update))

    def _apply(self, patch: PatchSource, want: Want, offer: Offer) -> None:
        store = self._parts.store
        with store.open(patch.sha256) as body, store.open(patch.base) as base:
            partial = store.begin(want.sha256, want.bytes, offer.block_bytes)
            try:
                apply_patch(body, base, partial, new_sha256=want.sha256, new_bytes=want.bytes)
                partial.commit()
            except DeltaError:
                partial.discard()
                raise
            finally:
                partial.close()

    def _patch_refused(
        self, update: Update, want: Want, patch: PatchSource, error: Exception
    ) -> Update:
        self._parts.store.delete(patch.sha256)
        with self._parts.state.transaction():
            update = self._refuse(update, patch)
            evidence = {
                "patch": {
                    "role": want.role,
                    "sha256": patch.sha256,
                    "format": patch.format,
                    "base": patch.base,
                    "refused": len(update.moved.refused),
                }
            }
            reason = f"the patch of the {want.role} file was refused: {error}"
            return self._parts.journal.move(update, Phase.FETCHING, reason, evidence)

    # -- verifying ---------------------------------------------------------------------------

    def _verifying(self, update: Update, files: Sequence[Want]) -> Update:
        """Re-read every file from disk and hash it: what lies there is what was signed."""
        parts = self._parts
        for want in files:
            try:
                with parts.store.open(want.sha256) as reader:
                    found = sha256_of(reader)
                    size = reader.size
            except BlobMissingError:
                reason = f"the {want.role} file is gone"
                return parts.journal.move(update, Phase.FETCHING, reason)
            if found == want.sha256 and size == want.bytes:
                continue
            if found == want.sha256:
                reason = f"the {want.role} file has {size} bytes, signed were {want.bytes}"
                return parts.journal.move(update, Phase.REJECTED, reason)
            parts.store.delete(want.sha256)
            corrupt = update.moved.corrupt + 1
            update = replace(update, moved=replace(update.moved, corrupt=corrupt))
            reason = f"the {want.role} file reads back wrong"
            if corrupt >= MAX_CORRUPT:
                raise StoreError(f"{reason}, {corrupt} times: the storage is failing")
            return parts.journal.move(update, Phase.FETCHING, reason)
        return parts.journal.move(update, Phase.TESTING, evidence=_transfer(update))

    # -- testing -----------------------------------------------------------------------------

    def _testing(self, update: Update, manifest: Manifest, assigned: Assigned) -> Update:
        try:
            result = self._run(manifest, assigned)
        except BlobMissingError as error:
            return self._parts.journal.move(update, Phase.FETCHING, str(error))
        evidence = {"selftest": _plain(result), **_parts_of(result)}
        if result.passed:
            return self._parts.journal.move(update, Phase.STAGED, evidence=evidence)
        if result.cause == "crashed":
            self._parts.interrupt.check()  # it was we who ended it
        reason = "; ".join(result.reasons)
        if result.cause is None or result.cause in _DEFINITE:
            return self._parts.journal.move(update, Phase.REJECTED, reason, evidence)
        failed = replace(update, failures=update.failures + 1)
        return self._parts.journal.move(failed, Phase.FAILED, reason, evidence)

    def _run(self, manifest: Manifest, assigned: Assigned) -> SelfTestResult:
        testing, store = self._parts.config.testing, self._parts.store
        trusted = assigned.acceptance
        with ExitStack() as readers:
            blobs = {
                entry.role: readers.enter_context(store.open(entry.sha256))
                for entry in manifest.shipped()
            }
            acceptance = None
            if trusted is not None:
                npz = store.read(trusted.sha256)
                acceptance = Acceptance(npz, trusted.minimum, trusted.metric)
            return run_selftest(
                manifest,
                blobs,
                acceptance=acceptance,
                launcher_prefix=testing.launcher,
                timeout_s=testing.timeout_s,
                memory_bytes=testing.memory_bytes,
                runs=testing.runs,
                threads=self._parts.config.threads,
            )


def _cost(moved: Moved, fetched: Fetched) -> Moved:
    sources = tuple(sorted({*moved.sources, *fetched.sources}))
    return replace(moved, bytes=moved.bytes + fetched.bytes, sources=sources)


def _transfer(update: Update) -> dict[str, Any]:
    moved = update.moved
    return {
        "transfer": {
            "bytes": moved.bytes,
            "full_bytes": moved.full_bytes,
            "source": "+".join(moved.sources) or "none",
            "patch": moved.patched,
            "refused_patches": len(moved.refused),
        }
    }


def _plain(result: SelfTestResult) -> dict[str, Any]:
    """Return the costs of the test; what its sets said is told beside it."""
    found = result.to_dict()
    return {
        name: found[name]
        for name in ("latency_ms", "memory_bytes", "process_bytes", "delegates", "error", "cause")
    }


def _parts_of(result: SelfTestResult) -> dict[str, Any]:
    found = {name: result.to_dict()[name] for name in ("golden", "acceptance")}
    golden = found["golden"]
    if golden is not None:
        golden["failed"] = golden["failed"][:32]
        if not math.isfinite(golden["worst_error"]):
            golden["worst_error"] = None
    return {name: value for name, value in found.items() if value is not None}
