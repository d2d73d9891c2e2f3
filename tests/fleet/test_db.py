"""The database: one schema however it came to be, transactions that hold, text from anywhere."""

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import inspect, text
from sqlalchemy.exc import DBAPIError

from edgec_fleet import audit
from edgec_fleet.db import Database, migrate
from edgec_fleet.db.schema import Alert, AuditEntry, Base, Device, Tenant, utcnow
from edgec_fleet.errors import SettingsError
from edgec_fleet.server import Server

pytestmark = pytest.mark.filterwarnings("error")


def test_migrations_make_exactly_the_declared_tables(server):
    with server.db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        difference = compare_metadata(context, Base.metadata)

    assert difference == []


def test_every_table_but_those_of_all_tenants_carries_the_tenant():
    free = {"tenants", "rate_windows", "parts"}

    without = {name for name, t in Base.metadata.tables.items() if "tenant" not in t.columns}

    assert without == free


def test_every_table_says_what_it_is():
    for mapper in Base.registry.mappers:
        assert mapper.class_.__doc__, mapper.class_


def test_downgrade_and_upgrade_leave_an_empty_current_database(tmp_path):
    from alembic import command

    database = Database(f"sqlite:///{tmp_path}/fresh.db")
    migrate.upgrade(database)

    with database.engine.connect() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        connection.commit()
        left = inspect(connection).get_table_names()
    migrate.upgrade(database)
    migrate.check_current(database)
    database.close()

    assert left == ["alembic_version"]


def test_a_database_without_the_schema_is_named(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/empty.db")

    with pytest.raises(SettingsError, match="edgec-fleet upgrade"):
        migrate.check_current(database)

    database.close()


def test_instants_come_back_aware_and_in_utc(server):
    at = datetime(2026, 3, 1, 12, 0, 0, 123456, timezone(timedelta(hours=5)))
    with server.db.write() as session:
        session.add(Tenant(id="t2", title="t2", created_at=at))

    with server.db.read() as session:
        found = session.get_one(Tenant, "t2").created_at

    assert found == at
    assert found.tzinfo == UTC


def test_a_naive_datetime_is_a_programmers_mistake(server):
    with pytest.raises(Exception, match="aware"), server.db.write() as session:
        session.add(Tenant(id="t2", title="t2", created_at=datetime(2026, 3, 1)))


def test_an_error_rolls_everything_back(server):
    def fail(session):
        session.add(Tenant(id="t2", title="t2"))
        session.flush()
        raise KeyError

    with pytest.raises(KeyError), server.db.write() as session:
        fail(session)

    with server.db.read() as session:
        assert session.get(Tenant, "t2") is None


def test_many_writers_lose_no_update(server):
    with server.db.write() as session:
        session.add(Device(id="cam-1", tenant="default"))

    def count_up():
        for _ in range(10):
            with server.db.write() as session:
                row = session.get_one(Device, "cam-1", with_for_update=True)
                row.counter += 1

    threads = [threading.Thread(target=count_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with server.db.read() as session:
        assert session.get_one(Device, "cam-1").counter == 60


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-(2.0**53), 2.0**53, allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=8,
)


def without_nul(value):
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case list():
            return [without_nul(item) for item in value]
        case dict():
            return {without_nul(key): without_nul(item) for key, item in value.items()}
    return value


@given(
    detail=st.dictionaries(st.just("value"), json_values),
    reason=st.text(st.characters(exclude_categories=["Cs"])),
)
@hypothesis_settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_text_and_json_is_kept_but_for_nul(server, detail, reason):
    with server.db.write() as session:
        alert = Alert(
            tenant="default",
            kind="k",
            severity="info",
            object_kind="o",
            object_id="i",
            reason=reason,
            detail=detail,
        )
        session.add(alert)
        session.flush()
        key = alert.id

    with server.db.read() as session:
        found = session.get_one(Alert, key)
        assert found.reason == without_nul(reason)
        assert found.detail == without_nul(detail)


class TestAudit:
    def fill(self, server: Server, count: int = 5) -> None:
        with server.db.write() as session:
            for number in range(count):
                audit.record(
                    session,
                    "default",
                    audit.SYSTEM,
                    "thing.do",
                    "thing",
                    str(number),
                    ratio=0.5,
                    whole=1.0,
                    words=["ä", None, {"deep": 10**12}],
                )

    def test_an_untouched_trail_is_whole(self, server):
        self.fill(server)

        with server.db.read() as session:
            verdict = audit.verify(session, "default")

        assert verdict.problems == ()
        assert verdict.entries >= 5

    def test_the_head_is_the_hash_of_the_last_entry(self, server):
        with server.db.write() as session:
            last = audit.record(session, "default", audit.SYSTEM, "a", "b", "c")

        with server.db.read() as session:
            assert audit.verify(session, "default").head == last.sha256

    @pytest.mark.parametrize("statement", ["UPDATE audit SET action = 'x'", "DELETE FROM audit"])
    def test_the_database_refuses_changes(self, server, statement):
        self.fill(server)

        with pytest.raises(DBAPIError, match="append-only"), server.db.write() as session:
            session.execute(text(statement))

    @pytest.mark.parametrize(
        ("statement", "found"),
        [
            ("UPDATE audit SET action = 'x' WHERE seq = 3", "entry 3 was changed"),
            ("UPDATE audit SET detail = '{}' WHERE seq = 3", "entry 3 was changed"),
            ("DELETE FROM audit WHERE seq = 3", "entry 3 is missing"),
            ("UPDATE audit SET seq = seq + 100 WHERE seq > 3", "entry 4 is missing"),
        ],
    )
    def test_a_change_behind_the_triggers_is_found(self, server, statement, found):
        self.fill(server)
        with server.db.write() as session:
            if server.db.engine.dialect.name == "sqlite":
                session.execute(text("DROP TRIGGER audit_no_update"))
                session.execute(text("DROP TRIGGER audit_no_delete"))
            else:
                session.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_append_only"))
            session.execute(text(statement))

        with server.db.read() as session:
            problems = audit.verify(session, "default").problems

        assert any(found in problem for problem in problems), problems

    def test_writers_at_once_leave_one_unbroken_chain(self, server):
        threads = [threading.Thread(target=self.fill, args=(server, 4)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        with server.db.read() as session:
            verdict = audit.verify(session, "default")
            count = session.query(AuditEntry).count()

        assert verdict.problems == ()
        assert verdict.entries == count

    def test_tenants_have_chains_of_their_own(self, server):
        with server.db.write() as session:
            session.add(Tenant(id="t2", title="t2", created_at=utcnow()))
            session.flush()
            entry = audit.record(session, "t2", audit.SYSTEM, "a", "b", "c")

        assert (entry.seq, entry.previous_sha256) == (1, audit.FIRST)
