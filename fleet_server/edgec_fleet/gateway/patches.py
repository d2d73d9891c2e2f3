"""Makes patches: a few child processes at a time, so that a large one holds nobody up.

The queue is the table `patches`. First come those that a device waits for, then those made ahead,
the largest audience first; what one release costs ahead is capped, in CPU time and in bytes. A row
is claimed by moving it from "queued" to "making"; what a killed gateway left in "making" is claimed
again when its heartbeat has gone.
"""

import logging
import multiprocessing
import os
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta

from sqlalchemy import ColumnElement, CursorResult, and_, func, or_, select, update

from edgec_fleet import blobs
from edgec_fleet.db.schema import Part, Patch, utcnow
from edgec_fleet.gateway import encoder
from edgec_fleet.gateway.encoder import Outcome
from edgec_fleet.server import Server

logger = logging.getLogger(__name__)

FRESH = timedelta(seconds=60)  # a gateway whose last beat is older has gone
MOST_ATTEMPTS = 3  # at a patch that gateways die of
AHEAD_CPU_S = 1800.0  # for one new file, before anybody asked
AHEAD_BYTES = 256 << 20
_REASON_LIMIT = 500


class PatchMaker:
    """Makes what the table `patches` asks for, at most `workers` at once.

    Args:
        server: whose queue and blobs.
        instance: this gateway, as its heartbeat names it.
        workers: how many patches at once.
        cpu_s: CPU seconds that one patch may take.
    """

    def __init__(
        self, server: Server, instance: str, workers: int = 1, cpu_s: int = encoder.CPU_S
    ) -> None:
        self._server = server
        self._instance = instance
        self._cpu_s = cpu_s
        self._idle: list[ProcessPoolExecutor | None] = [None] * workers  # one child each
        self._making: dict[str, tuple[Future[Outcome], ProcessPoolExecutor]] = {}

    def step(self) -> int:
        """Write down what is finished and begin what there is room for; return how many moved."""
        return self._collect() + self._begin()

    def close(self) -> None:
        """Stop the children; what they were making is queued again."""
        pools = [pool for _, pool in self._making.values()] + [one for one in self._idle if one]
        if pools:
            for child in multiprocessing.active_children():
                child.terminate()
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)
        if self._making:
            with self._server.db.write() as session:
                session.execute(
                    update(Patch)
                    .where(Patch.id.in_(list(self._making)), Patch.state == "making")
                    .values(state="queued", started_at=None, maker=None)
                )
        self._making, self._idle = {}, []

    def _begin(self) -> int:
        begun = 0
        while self._idle and (claimed := self._claim()) is not None:
            arguments = (claimed.base_sha256, claimed.new_sha256, claimed.format)
            pool = self._idle.pop() or _child()
            try:
                future = self._submit(pool, *arguments)
            except BrokenProcessPool:  # killed while it had nothing to do
                pool.shutdown(wait=False)
                pool = _child()
                future = self._submit(pool, *arguments)
            self._making[claimed.id] = (future, pool)
            begun += 1
        return begun

    def _submit(self, pool: ProcessPoolExecutor, base: str, new: str, name: str) -> Future[Outcome]:
        folder = self._server.settings.blobs_dir
        return pool.submit(encoder.make, folder, base, new, name, self._cpu_s)

    def _claim(self) -> Patch | None:
        now = utcnow()
        live = select(Part.instance).where(Part.name == "gateway", Part.beat_at > now - FRESH)
        lost = and_(
            Patch.state == "making",
            Patch.started_at < now - FRESH,
            or_(Patch.maker.is_(None), Patch.maker.not_in(live)),
        )
        claimable = (
            select(Patch)
            .where(or_(Patch.state == "queued", lost), or_(Patch.asked.is_(True), _affordable()))
            .order_by(Patch.asked.desc(), Patch.audience.desc(), Patch.created_at, Patch.id)
            .limit(1)
        )
        with self._server.db.read() as session:
            if session.scalar(claimable) is None:
                return None
        with self._server.db.write() as session:
            row = session.scalar(claimable.with_for_update(skip_locked=True))
            if row is not None and row.attempts >= MOST_ATTEMPTS:
                row.state, row.finished_at = "failed", now
                row.reason = "the gateway ended each time it was made"
                return None
            if row is not None:
                row.state, row.started_at, row.maker = "making", now, self._instance
                row.attempts += 1
            return row

    def _collect(self) -> int:
        done = [patch_id for patch_id, (future, _) in self._making.items() if future.done()]
        for patch_id in done:
            future, pool = self._making.pop(patch_id)
            try:
                outcome = future.result()
                self._idle.append(pool)
            except BrokenProcessPool:
                reason = (
                    f"the encoder was killed: out of memory, or above {self._cpu_s} CPU seconds"
                )
                outcome = Outcome("failed", reason=reason, cpu_s=float(self._cpu_s))
                pool.shutdown(wait=False)
                self._idle.append(None)
            self._write(patch_id, outcome)
        return len(done)

    def _write(self, patch_id: str, outcome: Outcome) -> None:
        with self._server.db.write() as session:
            row = session.get_one(Patch, patch_id)
            if outcome.sha256 is not None and outcome.bytes is not None:
                blobs.register(session, row.tenant, outcome.sha256, outcome.bytes, "patch")
            written = session.execute(
                update(Patch)
                .where(Patch.id == patch_id, Patch.state == "making", Patch.maker == self._instance)
                .values(
                    state=outcome.state,
                    sha256=outcome.sha256,
                    bytes=outcome.bytes,
                    reason=(outcome.reason or "")[:_REASON_LIMIT] or None,
                    cpu_s=outcome.cpu_s,
                    finished_at=utcnow(),
                )
            )
            if isinstance(written, CursorResult) and written.rowcount:
                size = f"{outcome.bytes} bytes" if outcome.bytes is not None else ""
                told = size or outcome.reason or ""
                logger.info("patch %s is %s: %s", patch_id, outcome.state, told)


def _child() -> ProcessPoolExecutor:
    """Return a pool of one child, which starts with its first patch."""
    return ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=encoder.prepare,
        initargs=(os.getpid(),),
    )


def _affordable() -> ColumnElement[bool]:
    """Return the SQL condition: what was made to the same new file has not used up its share."""
    spent = (
        select(Patch.tenant, Patch.new_sha256)
        .group_by(Patch.tenant, Patch.new_sha256)
        .having(
            or_(
                func.coalesce(func.sum(Patch.cpu_s), 0) >= AHEAD_CPU_S,
                func.coalesce(func.sum(Patch.bytes), 0) >= AHEAD_BYTES,
            )
        )
        .subquery()
    )
    used_up = select(spent.c.new_sha256).where(
        spent.c.tenant == Patch.tenant, spent.c.new_sha256 == Patch.new_sha256
    )
    return ~used_up.exists()
