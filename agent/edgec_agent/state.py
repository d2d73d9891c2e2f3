"""What the agent remembers: one SQLite file that survives a power cut between any two moves.

Slots, updates, verdicts and floors are keyed by model. Every method is a transaction of its own
unless it is called inside `transaction()`, which makes several of them one. WAL with
synchronous=FULL: what a method has returned from is on the disk.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgec_agent.errors import StateError
from edgec_agent.machine import Phase, Verdict
from edgec_bundle.messages import Deployed, new_id

SCHEMA = 1
FILE_NAME = "state.db"
ACTIVE, PREVIOUS = "active", "previous"

_TABLES = """
CREATE TABLE cells (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE lines (
    model TEXT PRIMARY KEY,
    floor_release INTEGER NOT NULL DEFAULT 0,  -- highest release ever committed
    boots INTEGER NOT NULL DEFAULT 0           -- starts in a row that did not prove healthy
) STRICT;
CREATE TABLE slots (
    model TEXT NOT NULL,
    slot TEXT NOT NULL CHECK (slot IN ('active', 'previous')),
    manifest TEXT NOT NULL,
    version TEXT NOT NULL,
    release INTEGER NOT NULL,
    files TEXT NOT NULL,                       -- JSON: role -> sha256
    PRIMARY KEY (model, slot)
) STRICT;
CREATE TABLE updates (
    model TEXT PRIMARY KEY,
    phase TEXT NOT NULL,
    manifest TEXT NOT NULL,
    version TEXT NOT NULL,
    counter INTEGER NOT NULL,                  -- of the assignment
    rollout TEXT,
    reason TEXT,
    failures INTEGER NOT NULL,
    restarts INTEGER NOT NULL,                 -- of the agent while the candidate was loaded
    transfer TEXT NOT NULL                     -- JSON: Moved
) STRICT;
CREATE TABLE verdicts (
    model TEXT NOT NULL,
    manifest TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    counter INTEGER NOT NULL,
    rollout TEXT,
    PRIMARY KEY (model, manifest)
) STRICT;
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('event', 'telemetry')),
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE commands (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    verb TEXT NOT NULL,
    arguments TEXT NOT NULL,
    answer TEXT                                -- JSON; NULL while it waits
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """What an update has cost in bytes so far, and which patches proved useless."""

    bytes: int = 0  # that came over a network
    full_bytes: int = 0  # what it would have been without patches and known blobs
    sources: tuple[str, ...] = ()  # "mqtt", "http", "pack"
    patched: bool = False
    refused: tuple[str, ...] = ()  # digests of patches that did not lead to their target
    corrupt: int = 0  # times that a finished file was found wrong
    stumbled: tuple[str, ...] = ()  # digests of patches that did not come, once for each time


@dataclass(frozen=True, slots=True)
class Update:
    """The newest update of one model, in progress or over."""

    model: str
    phase: Phase
    manifest: str
    version: str
    counter: int
    rollout: str | None = None
    reason: str | None = None
    failures: int = 0
    restarts: int = 0
    moved: Moved = Moved()


@dataclass(frozen=True, slots=True)
class Slots:
    """Where a device keeps a model."""

    active: Deployed | None = None
    previous: Deployed | None = None


class AgentState:
    """The file state.db. All methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Open, or make, the file. Raises StateError if it is damaged or too new."""
        self._lock = threading.RLock()
        self._depth = 0
        try:
            self._db = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=15
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._migrate(path)
        except sqlite3.Error as error:
            raise StateError(f"{path}: {error}") from error

    def _migrate(self, path: Path) -> None:
        with self.transaction():
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found > SCHEMA:
                raise StateError(f"{path}: expected schema {SCHEMA} or older, got {found}")
            if found == 0:
                for statement in _TABLES.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all calls inside the block one change: all of it happens, or nothing."""
        with self._lock:
            if self._depth == 0:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0 and self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._commit()

    def _commit(self) -> None:
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run one statement and return its rows."""
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def is_sound(self) -> bool:
        """Return whether SQLite finds the file intact."""
        return self.rows("PRAGMA quick_check") == [("ok",)]

    # -- cells -------------------------------------------------------------------------------

    def cell(self, key: str) -> bytes | None:
        """Return the value kept under `key`."""
        found = self.rows("SELECT value FROM cells WHERE key = ?", key)
        return bytes(found[0][0]) if found else None

    def set_cell(self, key: str, value: bytes) -> None:
        """Keep `value` under `key`."""
        self.rows(
            "INSERT INTO cells VALUES (?, ?) ON CONFLICT (key) DO UPDATE"
            " SET value = excluded.value",
            key,
            value,
        )

    def delete_cell(self, key: str) -> None:
        """Forget `key`."""
        self.rows("DELETE FROM cells WHERE key = ?", key)

    # -- boots and sequence ------------------------------------------------------------------

    def begin_boot(self) -> str:
        """Start a new sequence of events and return its boot id."""
        boot_id = new_id()
        with self.transaction():
            self.set_cell("boot_id", boot_id.encode())
            self.set_cell("seq", b"0")
        return boot_id

    def next_seq(self) -> tuple[str, int]:
        """Return the boot id and the number of the next event, counted from 1."""
        with self.transaction():
            seq = int(self.cell("seq") or b"0") + 1
            self.set_cell("seq", str(seq).encode())
            return (self.cell("boot_id") or b"none").decode(), seq

    # -- slots -------------------------------------------------------------------------------

    def models(self) -> tuple[str, ...]:
        """Return every model that has a slot or an update, sorted."""
        found = self.rows("SELECT model FROM slots UNION SELECT model FROM updates ORDER BY model")
        return tuple(model for (model,) in found)

    def slots(self, model: str) -> Slots:
        """Return what is kept of `model`."""
        found = {
            slot: Deployed(manifest=manifest, version=version, release=release, files=_json(files))
            for slot, manifest, version, release, files in self.rows(
                "SELECT slot, manifest, version, release, files FROM slots WHERE model = ?", model
            )
        }
        return Slots(found.get(ACTIVE), found.get(PREVIOUS))

    def set_slots(self, model: str, slots: Slots) -> None:
        """Replace what is kept of `model`."""
        with self.transaction():
            self.rows("DELETE FROM slots WHERE model = ?", model)
            for slot, kept in ((ACTIVE, slots.active), (PREVIOUS, slots.previous)):
                if kept is not None:
                    self.rows(
                        "INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?)",
                        model,
                        slot,
                        kept.manifest,
                        kept.version,
                        kept.release,
                        json.dumps(dict(kept.files), sort_keys=True),
                    )

    # -- floors and boots of a model line ----------------------------------------------------

    def floor_release(self, model: str) -> int:
        """Return the highest release of `model` that was ever committed here, or 0."""
        found = self.rows("SELECT floor_release FROM lines WHERE model = ?", model)
        return int(found[0][0]) if found else 0

    def raise_floor(self, model: str, release: int) -> None:
        """Refuse releases below `release` from now on; a floor never sinks."""
        self.rows(
            "INSERT INTO lines (model, floor_release) VALUES (?1, ?2) ON CONFLICT (model)"
            " DO UPDATE SET floor_release = max(floor_release, excluded.floor_release)",
            model,
            release,
        )

    def count_boot(self, model: str) -> int:
        """Note that `model` is about to be loaded at a start; return how often in a row."""
        ((boots,),) = self.rows(
            "INSERT INTO lines (model, boots) VALUES (?, 1) ON CONFLICT (model)"
            " DO UPDATE SET boots = boots + 1 RETURNING boots",
            model,
        )
        return int(boots)

    def clear_boots(self, model: str) -> None:
        """Note that `model` was loaded and did well."""
        self.rows("UPDATE lines SET boots = 0 WHERE model = ?", model)

    # -- updates and verdicts ----------------------------------------------------------------

    def update(self, model: str) -> Update | None:
        """Return the newest update of `model`."""
        found = self.rows("SELECT * FROM updates WHERE model = ?", model)
        return _update(found[0]) if found else None

    def updates(self) -> tuple[Update, ...]:
        """Return the newest update of every model, by name."""
        return tuple(map(_update, self.rows("SELECT * FROM updates ORDER BY model")))

    def save_update(self, update: Update) -> None:
        """Replace the update of its model."""
        moved = {name: getattr(update.moved, name) for name in Moved.__slots__}
        self.rows(
            "INSERT OR REPLACE INTO updates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            update.model,
            update.phase.value,
            update.manifest,
            update.version,
            update.counter,
            update.rollout,
            update.reason,
            update.failures,
            update.restarts,
            json.dumps(moved, sort_keys=True),
        )

    def verdict(self, model: str, manifest: str) -> Verdict | None:
        """Return how an earlier try of `manifest` ended, if it was for good."""
        found = self.rows(
            "SELECT outcome, reason, counter, rollout FROM verdicts"
            " WHERE model = ? AND manifest = ?",
            model,
            manifest,
        )
        return Verdict(Phase(found[0][0]), *found[0][1:]) if found else None

    def remember(self, model: str, manifest: str, verdict: Verdict) -> None:
        """Don't try `manifest` again by itself."""
        self.rows(
            "INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?, ?)",
            model,
            manifest,
            verdict.outcome.value,
            verdict.reason,
            verdict.counter,
            verdict.rollout,
        )

    def forget(self, model: str, manifest: str | None = None) -> None:
        """Forget the verdicts on `model`, or on one of its manifests."""
        self.rows(
            "DELETE FROM verdicts WHERE model = ?1 AND (?2 IS NULL OR manifest = ?2)",
            model,
            manifest,
        )

    def drop_model(self, model: str) -> None:
        """Forget all about `model` except its floor."""
        with self.transaction():
            self.forget(model)
            self.rows("DELETE FROM slots WHERE model = ?", model)
            self.rows("DELETE FROM updates WHERE model = ?", model)


def _json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found


def _update(row: tuple[Any, ...]) -> Update:
    model, phase, manifest, version, counter, rollout, reason, failures, restarts, moved = row
    raw = _json(moved)
    raw |= {name: tuple(raw.get(name, ())) for name in ("sources", "refused", "stumbled")}
    return Update(
        model=model,
        phase=Phase(phase),
        manifest=manifest,
        version=version,
        counter=counter,
        rollout=rollout,
        reason=reason,
        failures=failures,
        restarts=restarts,
        moved=replace(Moved(), **raw),
    )
