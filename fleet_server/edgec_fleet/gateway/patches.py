"""Makes patches: a few child processes at a time, so that a large one holds nobody up.

A row is claimed by moving it from "queued" to "making". What a killed gateway left in "making"
is claimed again after a while.
"""

import logging
import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from pathlib import Path

from sqlalchemy import CursorResult, or_, select, update

from edgec_bundle.delta import make_patch
from edgec_bundle.errors import BundleError
from edgec_bundle.store import FolderBlobStore
from edgec_fleet import blobs
from edgec_fleet._child import die_with_parent
from edgec_fleet.db.schema import Patch, utcnow
from edgec_fleet.server import Server

logger = logging.getLogger(__name__)

LOST_AFTER = timedelta(minutes=30)
_REASON_LIMIT = 500


class PatchMaker:
    """Makes what the table `patches` asks for, at most `workers` at once."""

    def __init__(self, server: Server, workers: int = 1) -> None:
        self._server = server
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._making: dict[str, Future[tuple[str, str | None, int | None, str | None]]] = {}

    def step(self) -> int:
        """Write down what is finished and begin what there is room for; return how many moved."""
        return self._collect() + self._begin()

    def close(self) -> None:
        """Stop the children; what they were making is queued again."""
        if self._pool is not None:
            for child in multiprocessing.active_children():
                child.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self._making:
            with self._server.db.write() as session:
                session.execute(
                    update(Patch)
                    .where(Patch.id.in_(list(self._making)), Patch.state == "making")
                    .values(state="queued", started_at=None)
                )
            self._making = {}

    def _begin(self) -> int:
        begun = 0
        while len(self._making) < self._workers and (claimed := self._claim()) is not None:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self._workers,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=die_with_parent,
                    initargs=(os.getpid(),),
                )
            self._making[claimed.id] = self._pool.submit(
                make,
                self._server.settings.blobs_dir,
                claimed.base_sha256,
                claimed.new_sha256,
                claimed.format,
            )
            begun += 1
        return begun

    def _claim(self) -> Patch | None:
        now = utcnow()
        lost = (Patch.state == "making") & (Patch.started_at < now - LOST_AFTER)
        claimable = select(Patch).where(or_(Patch.state == "queued", lost))
        with self._server.db.read() as session:
            if session.scalar(claimable.limit(1)) is None:
                return None
        with self._server.db.write() as session:
            oldest = claimable.order_by(Patch.created_at).limit(1)
            row = session.scalar(oldest.with_for_update(skip_locked=True))
            if row is not None:
                row.state, row.started_at = "making", now
            return row

    def _collect(self) -> int:
        done = [patch_id for patch_id, future in self._making.items() if future.done()]
        for patch_id in done:
            future = self._making.pop(patch_id)
            try:
                state, digest, size, reason = future.result()
            except BrokenProcessPool:
                state, digest, size, reason = "failed", None, None, "the encoder was killed"
                self._pool = None
            self._write(patch_id, state, digest, size, reason)
        return len(done)

    def _write(
        self, patch_id: str, state: str, digest: str | None, size: int | None, reason: str | None
    ) -> None:
        with self._server.db.write() as session:
            row = session.get_one(Patch, patch_id)
            if digest is not None and size is not None:
                blobs.register(session, row.tenant, digest, size, "patch")
            written = session.execute(
                update(Patch)
                .where(Patch.id == patch_id, Patch.state == "making")
                .values(
                    state=state,
                    sha256=digest,
                    bytes=size,
                    reason=(reason or "")[:_REASON_LIMIT] or None,
                    finished_at=utcnow(),
                )
            )
            if isinstance(written, CursorResult) and written.rowcount:
                logger.info("patch %s is %s (%s bytes) %s", patch_id, state, size, reason or "")


def make(
    folder: Path, base: str, new: str, name: str
) -> tuple[str, str | None, int | None, str | None]:
    """Make one patch and store it. Runs in a child process.

    Returns:
        (state, sha256, bytes, reason), as the table `patches` has them.
    """
    store = FolderBlobStore(folder)
    try:
        patch = make_patch(store.read(base), store.read(new), (name,))
        if patch is None:
            return "larger", None, None, "not clearly smaller than the compressed file"
        return "ready", store.put(patch.data), len(patch.data), None
    except (BundleError, MemoryError) as error:
        return "failed", None, None, f"{type(error).__name__}: {error}"
