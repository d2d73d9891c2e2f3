"""Opens the database and hands out transactions.

SQLite runs in WAL mode. A writing transaction takes the write lock when it begins (BEGIN
IMMEDIATE), since a reader that turns writer half-way fails at once instead of waiting.
PostgreSQL needs none of that; there, rows are locked with `with_for_update(skip_locked=True)`,
which SQLite ignores.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from sqlite3 import Connection as SqliteConnection
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from edgec_fleet.db.columns import Base

if TYPE_CHECKING:  # PostgreSQL's driver is an extra
    from psycopg import Connection as PostgresConnection

BUSY_TIMEOUT_S = 30
# The database does not do its work now, and may do it later: it is away, read-only after a failover
# (InternalError), or has too much to do.
AWAY = (OperationalError, InternalError, PoolTimeoutError)
_PATIENCE = {
    "connect_timeout": 10,
    "tcp_user_timeout": 15_000,  # ms, for what was sent and nobody acknowledged
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # the escape, not an escaped backslash


class Database:
    """A connection pool and its two kinds of transactions.

    Args:
        url: an SQLAlchemy URL, e.g. "sqlite:////var/lib/edgec-fleet/fleet.db" or
            "postgresql://user@host/name" (psycopg 3 is used for it).
    """

    def __init__(self, url: str) -> None:
        self.url = driver_url(url)
        self.engine: Engine = create_engine(
            self.url,
            pool_pre_ping=not is_sqlite(url),
            json_serializer=_to_json,
            connect_args={} if is_sqlite(url) else _patience(url),
        )
        if is_sqlite(url):
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        else:
            event.listen(self.engine, "connect", _prepare_postgresql)
        self._writer = self.engine.execution_options(edgec_write=True)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Yield a session in a writing transaction: committed at the end, rolled back on error.

        Objects stay readable afterwards (nothing expires on commit).
        """
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Yield a session for reading only; nothing it changes is kept."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def insert_or(
    session: Session, table: type[Base], values: Mapping[str, Any], update: Mapping[str, Any]
) -> None:
    """Insert a row, or with the same primary key `update` the one that is there.

    Atomic, unlike a look before the insert. An empty `update` leaves the row as it is.
    """
    postgresql = session.get_bind().dialect.name == "postgresql"
    insert = (postgres_insert if postgresql else sqlite_insert)(table).values(**values)
    key = [column.name for column in inspect(table).primary_key]
    if update:
        session.execute(insert.on_conflict_do_update(index_elements=key, set_=dict(update)))
    else:
        session.execute(insert.on_conflict_do_nothing(index_elements=key))


def is_sqlite(url: str) -> bool:
    """Return whether `url` names an SQLite database."""
    return make_url(url).get_backend_name() == "sqlite"


def driver_url(url: str) -> str:
    """Return `url` with the driver we ship named: PostgreSQL means psycopg 3."""
    parsed = make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed.render_as_string(hide_password=False)


def unanswered(error: SQLAlchemyError) -> str:
    """Return in one line that the database does not answer, and why (one of `AWAY`)."""
    why = str(getattr(error, "orig", error)).partition("\n")[0]
    return f"the database does not answer: {why}"


def _patience(url: str) -> dict[str, int]:
    """Return libpq's options by which a database that vanished is noticed within seconds.

    A gateway that waited for ever would keep the broker from the one that takes over.
    """
    return {name: value for name, value in _PATIENCE.items() if name not in make_url(url).query}


def _to_json(value: Any) -> str:
    """Return `value` as JSON; NUL in text, which PostgreSQL cannot hold, becomes U+FFFD."""
    return _NUL.sub(r"\1\\ufffd", json.dumps(value, allow_nan=False))


def _prepare_sqlite(connection: SqliteConnection, _record: Any) -> None:
    """Set WAL, durability, waiting and foreign keys, and take BEGIN away from the driver."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"busy_timeout={BUSY_TIMEOUT_S * 1000}",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _prepare_postgresql(connection: "PostgresConnection[Any]", _record: Any) -> None:
    """Let PostgreSQL, too, notice within seconds that we vanished, and give up our locks."""
    with connection.cursor() as cursor:
        for name in ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"):
            cursor.execute(f"SET {name} = {_PATIENCE[name.removeprefix('tcp_')]}")
        cursor.execute(f"SET tcp_user_timeout = {_PATIENCE['tcp_user_timeout']}")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    """Begin a transaction, with the write lock at once when it is going to write."""
    write = connection.get_execution_options().get("edgec_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
