"""Makes a fleet server's folder: config, database, CA, trust keys, first root, first user."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from securesystemslib.signer import Key

from edgec_bundle.manifest import NAME
from edgec_fleet import audit, identity
from edgec_fleet.db import Database, migrate
from edgec_fleet.db.schema import Tenant
from edgec_fleet.errors import ConflictError, RefusedError
from edgec_fleet.keystore import AUTHORITATIVE
from edgec_fleet.pki import Authority
from edgec_fleet.registry import trust_state
from edgec_fleet.server import Server
from edgec_fleet.settings import CONFIG, Settings


@dataclass(frozen=True, slots=True)
class FirstLogin:
    """The first user, an admin. The password is shown once and kept nowhere."""

    user: str
    password: str


def initialise(
    settings: Settings,
    *,
    user: str = "admin",
    password: str | None = None,
    public_keys: Mapping[str, Key] | None = None,
) -> FirstLogin:
    """Make the folder `settings.dir` into a fleet server, whole or not at all.

    Args:
        settings: what the server shall be; saved as its config.toml.
        user: name of the first user, an admin.
        password: of that user; None: a random one.
        public_keys: role (targets or acceptance) -> public key of a role that signs elsewhere.

    Raises:
        ConflictError: the folder or the database holds a fleet server already.
        RefusedError: a name or password is not acceptable.
        SettingsError: a key or the database cannot be made.
    """
    for name in (CONFIG, "keys", "blobs", "fleet.db"):  # so that `_clear` removes only our own
        if (settings.dir / name).exists():
            raise ConflictError(f"{settings.dir} holds a fleet server already ({name})")
    if not NAME.fullmatch(settings.tenant):
        raise RefusedError(f"expected a tenant of a-z, 0-9, - and _, got {settings.tenant!r}")
    elsewhere = dict(public_keys or {})
    if wrong := elsewhere.keys() - {*AUTHORITATIVE} | elsewhere.keys() & {"root"}:
        raise RefusedError(f"only targets and acceptance can sign elsewhere, not {sorted(wrong)}")
    existed = settings.dir.exists()
    settings.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        login = _fill(settings, user, password, elsewhere)
    except BaseException:
        _clear(settings, remove_folder=not existed)
        raise
    settings.save()
    return login


def _fill(
    settings: Settings, user: str, password: str | None, elsewhere: Mapping[str, Key]
) -> FirstLogin:
    Authority.create(settings.keys_dir)
    server = Server.open(settings, check_schema=False)
    try:
        migrate.upgrade(server.db)
        server.keystore(settings.tenant).create(leave_out=elsewhere)
        with server.db.write() as session:
            if session.get(Tenant, settings.tenant) is not None:
                raise ConflictError("the database holds a fleet server already")
            session.add(Tenant(id=settings.tenant, title=settings.tenant))
            session.flush()
            trust_state.establish(server, session, settings.tenant, elsewhere)
            actor, shown = identity.create_user(
                session, settings.tenant, user, "admin", password, audit.SYSTEM
            )
        return FirstLogin(actor.name, shown)
    finally:
        server.close()


def _clear(settings: Settings, *, remove_folder: bool) -> None:
    """Remove what a failed attempt made."""
    if remove_folder:
        shutil.rmtree(settings.dir, ignore_errors=True)
        return
    for folder in (settings.keys_dir, settings.blobs_dir):
        shutil.rmtree(folder, ignore_errors=True)
    if settings.database == Settings(dir=settings.dir).database:
        for suffix in ("", "-wal", "-shm"):
            (settings.dir / f"fleet.db{suffix}").unlink(missing_ok=True)


def upgrade(settings: Settings) -> None:
    """Bring the database of an existing server to this program's schema."""
    database = Database(settings.database_url)
    try:
        migrate.upgrade(database)
    finally:
        database.close()
