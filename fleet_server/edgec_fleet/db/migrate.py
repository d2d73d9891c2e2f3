"""Brings a database to the schema of this program, step by step (Alembic)."""

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from edgec_fleet.db.session import Database
from edgec_fleet.errors import SettingsError

_SCRIPTS = "edgec_fleet.db:migrations"


def upgrade(database: Database, revision: str = "head") -> None:
    """Apply every migration that the database lacks, in one transaction each."""
    with database.engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()


def check_current(database: Database) -> None:
    """Raise SettingsError unless the database has exactly this program's schema."""
    with database.engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    wanted = ScriptDirectory.from_config(_config()).get_current_head()
    if found != wanted:
        raise SettingsError(
            f"the database's schema is {found or 'missing'}, this program wants {wanted}; "
            "run: edgec-fleet upgrade --dir DIR"
        )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", _SCRIPTS)
    return config
