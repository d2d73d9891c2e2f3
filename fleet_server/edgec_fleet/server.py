"""What every process of the server has open: settings, database, blob store, CA, keys."""

from dataclasses import dataclass
from functools import cached_property

from edgec_bundle.store import FolderBlobStore
from edgec_fleet.db import Database, migrate
from edgec_fleet.keystore import Keystore
from edgec_fleet.pki import Authority
from edgec_fleet.settings import Settings


@dataclass(frozen=True)
class Server:
    """An opened fleet server folder. Open it after forking, close it at the end."""

    settings: Settings
    db: Database

    @classmethod
    def open(cls, settings: Settings, *, check_schema: bool = True) -> "Server":
        """Open what `settings` describe. Raises SettingsError: not usable as it is."""
        db = Database(settings.database_url)
        if check_schema:
            migrate.check_current(db)
        return cls(settings, db)

    @cached_property
    def store(self) -> FolderBlobStore:
        """The blob store."""
        return FolderBlobStore(self.settings.blobs_dir)

    @cached_property
    def authority(self) -> Authority:
        """The fleet CA."""
        return Authority.load(self.settings.keys_dir)

    def keystore(self, tenant: str) -> Keystore:
        """Return the trust keys of `tenant` that this server holds."""
        return Keystore.of(self.settings, tenant)

    def close(self) -> None:
        """Close the database."""
        self.db.close()
