"""Tables of tenants, the people and programs that act, and what they did."""

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from edgec_fleet.db.columns import (
    Base,
    Bytes,
    Created,
    Digest,
    Instant,
    Json,
    JsonColumn,
    Key,
    LongText,
    Name,
    TenantId,
)

ROLES = ("viewer", "operator", "releaser", "admin")


class Tenant(Base):
    """An owner of models, devices and users; nothing is visible across tenants."""

    __tablename__ = "tenants"

    id: Mapped[Name] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[Created]


class Actor(Base):
    """Somebody who acts: a user with a password, or a part of the server (`kind` "system").

    `name` is unique within a tenant; users log in with it. `role` is one of ROLES.
    A disabled actor keeps its history and can do nothing.
    """

    __tablename__ = "actors"
    __table_args__ = (
        UniqueConstraint("tenant", "name"),
        CheckConstraint("kind IN ('user', 'system')", name="kind"),
        CheckConstraint("role IN ('viewer', 'operator', 'releaser', 'admin')", name="role"),
    )

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    kind: Mapped[str] = mapped_column(String(16), default="user")
    name: Mapped[Name]
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str | None] = mapped_column(String(255))  # argon2id, PHC string
    created_at: Mapped[Created]
    disabled_at: Mapped[Instant | None]
    last_login_at: Mapped[Instant | None]


class ApiToken(Base):
    """A bearer token of an actor; only the sha256 of its secret is kept.

    `role` caps what the token may do, and is never above its actor's.
    """

    __tablename__ = "api_tokens"

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    actor_id: Mapped[str] = mapped_column(ForeignKey("actors.id"), index=True)
    name: Mapped[str] = mapped_column(String(255))
    role: Mapped[str] = mapped_column(String(16))
    secret_sha256: Mapped[Digest] = mapped_column(unique=True)
    created_at: Mapped[Created]
    expires_at: Mapped[Instant | None]
    last_used_at: Mapped[Instant | None]
    revoked_at: Mapped[Instant | None]


class WebSession(Base):
    """A browser's login; the cookie holds the secret, the row its sha256 and the CSRF secret."""

    __tablename__ = "web_sessions"

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    actor_id: Mapped[str] = mapped_column(ForeignKey("actors.id"), index=True)
    secret_sha256: Mapped[Digest] = mapped_column(unique=True)
    csrf: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[Created]
    expires_at: Mapped[Instant]
    last_used_at: Mapped[Instant]


class RateWindow(Base):
    """How many attempts a caller made in one time window (login, enrolment).

    `bucket` names the caller and the thing tried. It is kept for all tenants together, since
    who has not logged in yet has no tenant.
    """

    __tablename__ = "rate_windows"

    bucket: Mapped[str] = mapped_column(String(128), primary_key=True)
    window_start: Mapped[Instant] = mapped_column(primary_key=True)
    count: Mapped[int]


class AuditEntry(Base):
    """One thing that somebody did. Append-only; each entry carries the hash of the one before.

    `sha256` covers every other column, so that a changed, removed or reordered row is found by
    `edgec-fleet audit verify`. `seq` counts from 1 per tenant without gaps. Triggers refuse
    UPDATE and DELETE.
    """

    __tablename__ = "audit"
    __table_args__ = (Index(None, "tenant", "object_kind", "object_id"),)

    tenant: Mapped[TenantId] = mapped_column(primary_key=True)
    seq: Mapped[Bytes] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[Instant]
    actor_id: Mapped[str | None] = mapped_column(String(32))  # no foreign key: outlives the actor
    actor_name: Mapped[str] = mapped_column(String(255))
    action: Mapped[str] = mapped_column(String(64))  # "release.publish", "device.revoke"
    object_kind: Mapped[str] = mapped_column(String(32))
    object_id: Mapped[str] = mapped_column(String(255))
    detail: Mapped[Json] = mapped_column(JsonColumn)
    previous_sha256: Mapped[Digest]
    sha256: Mapped[Digest]


class Alert(Base):
    """Something that hurts and that a person should look at.

    Open while `closed_at` is null; one open alert per (tenant, kind, object).
    """

    __tablename__ = "alerts"
    __table_args__ = (Index(None, "tenant", "closed_at"),)

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    kind: Mapped[str] = mapped_column(String(64))  # "rollout.paused", "device.silent", ...
    severity: Mapped[str] = mapped_column(String(16))  # "info", "warning", "critical"
    object_kind: Mapped[str] = mapped_column(String(32))
    object_id: Mapped[str] = mapped_column(String(255))
    reason: Mapped[LongText]
    detail: Mapped[Json] = mapped_column(JsonColumn, default=dict)
    opened_at: Mapped[Created]
    closed_at: Mapped[Instant | None]
    acknowledged_at: Mapped[Instant | None]
    acknowledged_by: Mapped[str | None] = mapped_column(ForeignKey("actors.id"))
