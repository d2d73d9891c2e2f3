"""Users, their sessions and API tokens: who is calling, and with which role.

Passwords are argon2id hashes. Session and API secrets are 256 random bits; the database keeps
their sha256 only, so that a copy of it logs nobody in.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from edgec_bundle.manifest import NAME
from edgec_fleet import audit
from edgec_fleet.db.schema import ROLES, Actor, ApiToken, WebSession, new_id, utcnow
from edgec_fleet.errors import ConflictError, RefusedError, UnknownError

TOKEN_PREFIX = "edgect_"  # noqa: S105 (a prefix, so that scanners find leaked tokens)
MINIMUM_PASSWORD = 10
MAXIMUM_PASSWORD = 1024

_NOTED_EVERY = timedelta(minutes=1)
_hasher = PasswordHasher()
_DECOY = _hasher.hash(secrets.token_hex(16))  # verified against when there is no such user


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, with the role that counts for it.

    `csrf` is set for browser sessions, whose unsafe requests must repeat it.
    """

    name: str
    tenant: str
    role: str
    actor_id: str | None = None
    csrf: str | None = None
    session_id: str | None = None
    token_id: str | None = None
    last_used_at: datetime | None = None  # of that session or token

    def may(self, role: str) -> bool:
        """Return whether this caller's role includes `role` (viewer < .. < admin)."""
        return ROLES.index(self.role) >= ROLES.index(role)

    @property
    def actor(self) -> audit.Actor:
        """The caller as the audit trail names it."""
        return audit.Actor(self.name, self.actor_id)


def create_user(
    session: Session, tenant: str, name: str, role: str, password: str | None, by: audit.Actor
) -> tuple[Actor, str]:
    """Add a user and return it with its password (a random one unless given).

    Raises:
        RefusedError: the name, role or password is not acceptable.
        ConflictError: the tenant already has a user of this name.
    """
    if not NAME.fullmatch(name):
        raise RefusedError(
            f"expected a user name of 1 to 63 characters a-z, 0-9, - and _, got {name!r}"
        )
    _check_role(role)
    password = secrets.token_urlsafe(15) if password is None else password
    if not MINIMUM_PASSWORD <= len(password) <= MAXIMUM_PASSWORD:
        raise RefusedError(f"expected a password of {MINIMUM_PASSWORD} characters or more")
    if find_user(session, tenant, name) is not None:
        raise ConflictError(f"there is already a user {name}")
    actor = Actor(
        id=new_id(), tenant=tenant, name=name, role=role, password_hash=_hasher.hash(password)
    )
    session.add(actor)
    session.flush()
    audit.record(session, tenant, by, "user.create", "user", name, role=role)
    return actor, password


def set_role(session: Session, actor: Actor, role: str, by: audit.Actor) -> None:
    """Give `actor` another role; its tokens never exceed it. Raises RefusedError."""
    _check_role(role)
    audit.record(
        session, actor.tenant, by, "user.role", "user", actor.name, before=actor.role, after=role
    )
    actor.role = role


def set_password(session: Session, actor: Actor, password: str | None, by: audit.Actor) -> str:
    """Set the password (random unless given), end the user's sessions, return the password."""
    password = secrets.token_urlsafe(15) if password is None else password
    if not MINIMUM_PASSWORD <= len(password) <= MAXIMUM_PASSWORD:
        raise RefusedError(f"expected a password of {MINIMUM_PASSWORD} characters or more")
    actor.password_hash = _hasher.hash(password)
    _end_sessions(session, actor)
    audit.record(session, actor.tenant, by, "user.password", "user", actor.name)
    return password


def disable(session: Session, actor: Actor, by: audit.Actor) -> None:
    """Shut `actor` out: no login, no session, no token; its history stays."""
    actor.disabled_at = utcnow()
    _end_sessions(session, actor)
    audit.record(session, actor.tenant, by, "user.disable", "user", actor.name)


def enable(session: Session, actor: Actor, by: audit.Actor) -> None:
    """Let a disabled `actor` back in."""
    actor.disabled_at = None
    audit.record(session, actor.tenant, by, "user.enable", "user", actor.name)


def find_user(session: Session, tenant: str, name: str) -> Actor | None:
    """Return the tenant's user of this name, or None."""
    return session.scalar(
        select(Actor).where(Actor.tenant == tenant, Actor.name == name, Actor.kind == "user")
    )


def get_user(session: Session, tenant: str, name: str) -> Actor:
    """Return the tenant's user of this name. Raises UnknownError."""
    actor = find_user(session, tenant, name)
    if actor is None:
        raise UnknownError(f"there is no user {name}")
    return actor


def check_password(actor: Actor | None, password: str) -> bool:
    """Return whether `password` is the actor's. Takes as long when there is no such actor."""
    stored = actor.password_hash if actor is not None and actor.disabled_at is None else None
    try:
        # Over-long input is not hashed, so that a login costs a bounded time.
        matches = _hasher.verify(stored or _DECOY, password[:MAXIMUM_PASSWORD])
    except (VerificationError, InvalidHashError):
        return False
    return matches and stored is not None and len(password) <= MAXIMUM_PASSWORD


def start_session(session: Session, actor: Actor, hours: int) -> tuple[str, WebSession]:
    """Begin a browser session and return (the cookie's secret, its row)."""
    secret = secrets.token_urlsafe(32)
    now = utcnow()
    session.execute(delete(WebSession).where(WebSession.expires_at < now))
    row = WebSession(
        id=new_id(),
        tenant=actor.tenant,
        actor_id=actor.id,
        secret_sha256=_sha256(secret),
        csrf=secrets.token_urlsafe(32),
        created_at=now,
        expires_at=now + timedelta(hours=hours),
        last_used_at=now,
    )
    actor.last_login_at = now
    session.add(row)
    session.flush()
    audit.record(
        session, actor.tenant, audit.Actor(actor.name, actor.id), "user.login", "user", actor.name
    )
    return secret, row


def end_session(session: Session, caller: Caller) -> None:
    """Log the caller's browser session out."""
    row = session.get(WebSession, caller.session_id) if caller.session_id else None
    if row is not None:
        session.delete(row)


def caller_of_session(session: Session, secret: str) -> Caller | None:
    """Return who holds the session cookie `secret`, or None if nobody (any more) does."""
    found = session.execute(
        select(WebSession, Actor)
        .join(Actor, Actor.id == WebSession.actor_id)
        .where(WebSession.secret_sha256 == _sha256(secret), Actor.disabled_at.is_(None))
    ).first()
    if found is None or found[0].expires_at <= utcnow():
        return None
    row, actor = found
    return Caller(
        name=actor.name,
        tenant=actor.tenant,
        role=actor.role,
        actor_id=actor.id,
        csrf=row.csrf,
        session_id=row.id,
        last_used_at=row.last_used_at,
    )


def create_api_token(
    session: Session,
    actor: Actor,
    name: str,
    role: str | None,
    expires_at: datetime | None,
    by: audit.Actor,
) -> tuple[str, ApiToken]:
    """Make an API token of `actor` and return (its text, shown once; its row).

    `role` caps the token below its actor's role. Raises RefusedError.
    """
    role = actor.role if role is None else role
    _check_role(role)
    if ROLES.index(role) > ROLES.index(actor.role):
        raise RefusedError(f"{actor.name} is {actor.role}: a token cannot be {role}")
    text = TOKEN_PREFIX + secrets.token_urlsafe(32)
    row = ApiToken(
        id=new_id(),
        tenant=actor.tenant,
        actor_id=actor.id,
        name=name[:255],
        role=role,
        secret_sha256=_sha256(text),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    audit.record(
        session, actor.tenant, by, "token.create", "token", row.id, user=actor.name, role=role
    )
    return text, row


def revoke_api_token(session: Session, row: ApiToken, by: audit.Actor) -> None:
    """Make the token worthless from now on."""
    row.revoked_at = row.revoked_at or utcnow()
    audit.record(session, row.tenant, by, "token.revoke", "token", row.id)


def caller_of_token(session: Session, text: str) -> Caller | None:
    """Return whose API token `text` is, or None if nobody's (any more)."""
    found = session.execute(
        select(ApiToken, Actor)
        .join(Actor, Actor.id == ApiToken.actor_id)
        .where(
            ApiToken.secret_sha256 == _sha256(text),
            ApiToken.revoked_at.is_(None),
            Actor.disabled_at.is_(None),
        )
    ).first()
    if found is None:
        return None
    row, actor = found
    if row.expires_at is not None and row.expires_at <= utcnow():
        return None
    role = min(row.role, actor.role, key=ROLES.index)
    return Caller(
        name=actor.name,
        tenant=actor.tenant,
        role=role,
        actor_id=actor.id,
        token_id=row.id,
        last_used_at=row.last_used_at,
    )


def was_used_lately(caller: Caller) -> bool:
    """Return whether the caller's session or token was noted as used within a minute."""
    return caller.last_used_at is not None and utcnow() - caller.last_used_at < _NOTED_EVERY


def note_use(session: Session, caller: Caller) -> None:
    """Note that the caller's session or token was used just now."""
    table: type[WebSession | ApiToken] = WebSession if caller.session_id else ApiToken
    key = caller.session_id or caller.token_id
    session.execute(update(table).where(table.id == key).values(last_used_at=utcnow()))


def _end_sessions(session: Session, actor: Actor) -> None:
    for row in session.scalars(select(WebSession).where(WebSession.actor_id == actor.id)):
        session.delete(row)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise RefusedError(f"expected a role of {', '.join(ROLES)}, got {role!r}")


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
