"""Tables of rollouts: groups in order, devices in groups, and the why of every step."""

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from edgec_fleet.db.columns import (
    Base,
    Bytes,
    Created,
    Instant,
    Json,
    JsonColumn,
    Key,
    LongText,
    Name,
    Serial,
    TenantId,
)

ROLLOUT_STATES = ("running", "paused", "completed", "aborted")
GROUP_STATES = ("waiting", "running", "succeeded", "failed", "aborted")
UPDATE_STATES = (
    "queued",  # in its group, not told yet
    "assigned",  # told; nothing heard
    "in_progress",  # the device reports phases
    "committed",
    "failed",
    "rejected",
    "rolled_back",
    "timed_out",  # left the denominator
    "cancelled",  # never told: the rollout was aborted, or the device revoked or superseded
)


class Rollout(Base):
    """The order to bring one release to many devices, group by group.

    `spec` is the request as accepted; `reason` says in one sentence why it is in `state`.
    """

    __tablename__ = "rollouts"
    __table_args__ = (
        CheckConstraint("state IN ('running', 'paused', 'completed', 'aborted')", name="state"),
        Index(None, "tenant", "state"),
    )

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    model: Mapped[Name]
    release_id: Mapped[str] = mapped_column(ForeignKey("releases.id"), index=True)
    version: Mapped[str] = mapped_column(String(128))
    strategy: Mapped[str] = mapped_column(String(16))  # "canary", "staged", "all"
    spec: Mapped[Json] = mapped_column(JsonColumn)
    rate_per_minute: Mapped[float | None]
    state: Mapped[str] = mapped_column(String(16), default="running")
    reason: Mapped[LongText]
    since: Mapped[Created]
    created_at: Mapped[Created]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("actors.id"))
    finished_at: Mapped[Instant | None]

    groups: Mapped[list["RolloutGroup"]] = relationship(order_by="RolloutGroup.position")


class RolloutGroup(Base):
    """One step of a rollout: its size rule, thresholds, and how it stands."""

    __tablename__ = "rollout_groups"
    __table_args__ = (
        UniqueConstraint("rollout_id", "position"),
        CheckConstraint(
            "state IN ('waiting', 'running', 'succeeded', 'failed', 'aborted')", name="state"
        ),
    )

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"), index=True)
    position: Mapped[int]  # from 0
    name: Mapped[str] = mapped_column(String(63))
    select: Mapped[Json] = mapped_column(JsonColumn)  # {"percent"|"count"|"devices"|"filter": ..}
    success_threshold: Mapped[float] = mapped_column(default=1.0)
    error_threshold: Mapped[float] = mapped_column(default=0.0)
    minimum_executed: Mapped[int] = mapped_column(default=1)
    soak_s: Mapped[float] = mapped_column(default=0.0)
    device_timeout_s: Mapped[float] = mapped_column(default=3600.0)
    retries: Mapped[int] = mapped_column(default=0)
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    reason: Mapped[LongText] = mapped_column(default="")
    since: Mapped[Created]
    started_at: Mapped[Instant | None]
    finished_at: Mapped[Instant | None]


class DeviceUpdate(Base):
    """One device in one rollout: how far it got, since when, and why.

    `state` is one of UPDATE_STATES; `phase` the device's own last reported phase.
    """

    __tablename__ = "device_updates"
    __table_args__ = (
        UniqueConstraint("rollout_id", "device_id"),
        Index(None, "rollout_id", "state"),
        Index(None, "device_id", "state"),
    )

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"))
    group_id: Mapped[str] = mapped_column(ForeignKey("rollout_groups.id"), index=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    variant_id: Mapped[str | None] = mapped_column(ForeignKey("variants.id"))
    state: Mapped[str] = mapped_column(String(16), default="queued")
    phase: Mapped[str | None] = mapped_column(String(32))
    reason: Mapped[LongText | None]
    evidence: Mapped[Json] = mapped_column(JsonColumn, default=dict)
    since: Mapped[Created]
    attempts: Mapped[int] = mapped_column(default=0)
    counter: Mapped[Bytes | None]  # of the assignment that told it
    assigned_at: Mapped[Instant | None]
    finished_at: Mapped[Instant | None]
    transferred_bytes: Mapped[Bytes | None]
    full_bytes: Mapped[Bytes | None]


class RolloutLog(Base):
    """Why something changed in a rollout: one row per transition, in order."""

    __tablename__ = "rollout_log"
    __table_args__ = (Index(None, "rollout_id", "id"),)

    id: Mapped[Serial]
    tenant: Mapped[TenantId]
    rollout_id: Mapped[str] = mapped_column(ForeignKey("rollouts.id"))
    at: Mapped[Created]
    actor_id: Mapped[str | None] = mapped_column(ForeignKey("actors.id"))  # null: the engine
    group_id: Mapped[str | None] = mapped_column(ForeignKey("rollout_groups.id"))
    device_id: Mapped[str | None] = mapped_column(ForeignKey("devices.id"))
    subject: Mapped[str] = mapped_column(String(16))  # "rollout", "group", "device"
    before: Mapped[str | None] = mapped_column(String(32))
    after: Mapped[str] = mapped_column(String(32))
    why: Mapped[LongText]
    evidence: Mapped[Json] = mapped_column(JsonColumn, default=dict)
