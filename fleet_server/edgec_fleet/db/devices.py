"""Tables of devices: who they are, what they said, what they were told."""

from sqlalchemy import ForeignKey, Index, LargeBinary, String, UniqueConstraint
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
    Serial,
    TenantId,
)


class Device(Base):
    """One enrolled device. `id` is unique over all tenants.

    `hello` and `models` are what the device last reported (the messages Hello and
    State.models); `profiles` repeats the accepted profile names, preferred first.
    `counter` is the highest assignment counter given to it.
    """

    __tablename__ = "devices"
    __table_args__ = (Index(None, "tenant", "online"),)

    id: Mapped[Name] = mapped_column(primary_key=True)
    tenant: Mapped[TenantId]
    profiles: Mapped[Json] = mapped_column(JsonColumn, default=list)
    tags: Mapped[Json] = mapped_column(JsonColumn, default=dict)  # {str: str}
    enrolled_at: Mapped[Created]
    revoked_at: Mapped[Instant | None]
    revoked_reason: Mapped[LongText | None]
    certificate_serial: Mapped[str | None] = mapped_column(String(40))  # lowercase hex
    certificate_expires_at: Mapped[Instant | None]
    boot_id: Mapped[str | None] = mapped_column(String(64))
    online: Mapped[bool] = mapped_column(default=False)
    last_contact_at: Mapped[Instant | None]
    hello: Mapped[Json | None] = mapped_column(JsonColumn)
    hello_at: Mapped[Instant | None]
    models: Mapped[Json] = mapped_column(JsonColumn, default=dict)
    state_at: Mapped[Instant | None]
    counter: Mapped[Bytes] = mapped_column(default=0)


class Certificate(Base):
    """A certificate that the fleet CA issued; the revoked ones make the CRL.

    `kind`: "device" or "server". `serial` is lowercase hex without leading zeros.
    """

    __tablename__ = "certificates"

    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[TenantId]
    kind: Mapped[str] = mapped_column(String(16))
    subject: Mapped[str] = mapped_column(String(255), index=True)  # device id or host name
    spki_sha256: Mapped[Digest]
    not_before: Mapped[Instant]
    not_after: Mapped[Instant]
    created_at: Mapped[Created]
    revoked_at: Mapped[Instant | None]
    revoked_reason: Mapped[str | None] = mapped_column(String(64))


class EnrolmentToken(Base):
    """A token that lets devices enrol; one use by default. Only the secret's sha256 is kept.

    `tags` are given to every device that enrols with it.
    """

    __tablename__ = "enrolment_tokens"

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    secret_sha256: Mapped[Digest] = mapped_column(unique=True)
    note: Mapped[str] = mapped_column(String(255), default="")
    tags: Mapped[Json] = mapped_column(JsonColumn, default=dict)
    created_at: Mapped[Created]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("actors.id"))
    expires_at: Mapped[Instant]
    max_uses: Mapped[int] = mapped_column(default=1)
    uses: Mapped[int] = mapped_column(default=0)
    revoked_at: Mapped[Instant | None]


class EnrolmentUse(Base):
    """A device that a token enrolled, with its key: a repeat by the same key gets its
    certificate again (the first answer may have been lost), any other key is refused.
    """

    __tablename__ = "enrolment_uses"

    token_id: Mapped[str] = mapped_column(ForeignKey("enrolment_tokens.id"), primary_key=True)
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    tenant: Mapped[TenantId]
    spki_sha256: Mapped[Digest]
    at: Mapped[Created]


class DeviceEvent(Base):
    """The device's timeline: what it reported and what was done to it, in order of arrival.

    `kind`: "event" (the message Event; phase, reason and evidence are its own), "hello",
    "online", "offline", "enrolled", "renewed", "revoked", "assigned". `message_id` makes
    repeated delivery harmless. `at` is the server's clock, `reported_at` the device's.
    """

    __tablename__ = "device_events"
    __table_args__ = (
        UniqueConstraint("device_id", "message_id"),
        Index(None, "device_id", "id"),
        Index(None, "tenant", "at"),
    )

    id: Mapped[Serial]
    tenant: Mapped[TenantId]
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    at: Mapped[Created]
    reported_at: Mapped[Instant | None]
    kind: Mapped[str] = mapped_column(String(32))
    message_id: Mapped[str | None] = mapped_column(String(64))
    boot_id: Mapped[str | None] = mapped_column(String(64))
    seq: Mapped[Bytes | None]
    model: Mapped[Name | None]
    manifest_sha256: Mapped[Digest | None]
    counter: Mapped[Bytes | None]  # of the assignment it speaks about
    rollout_id: Mapped[str | None] = mapped_column(String(32), index=True)
    phase: Mapped[str | None] = mapped_column(String(32))
    previous_phase: Mapped[str | None] = mapped_column(String(32))
    reason: Mapped[LongText | None]
    evidence: Mapped[Json] = mapped_column(JsonColumn, default=dict)


class Assignment(Base):
    """What a device is told to run: one row per counter, the newest counts.

    The engine writes `targets` ([{"path", "sha256", "bytes"}], every model of the device) and
    `rollouts` ({model: rollout id}); the gateway signs, sets `document`, `issued_at` and
    `expires_at`, and sets `published_at` when the broker has it.
    """

    __tablename__ = "assignments"
    __table_args__ = (Index(None, "published_at", "created_at"),)

    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    counter: Mapped[Bytes] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[TenantId]
    targets: Mapped[Json] = mapped_column(JsonColumn)
    rollouts: Mapped[Json] = mapped_column(JsonColumn, default=dict)
    created_at: Mapped[Created]
    document: Mapped[bytes | None] = mapped_column(LargeBinary)
    trust_generation: Mapped[Bytes | None]  # TrustSet.generation that it was published with
    issued_at: Mapped[Instant | None]
    expires_at: Mapped[Instant | None]
    published_at: Mapped[Instant | None]
    superseded_at: Mapped[Instant | None]


class Telemetry(Base):
    """One window of one model on one device: counts, latency, histograms that add up."""

    __tablename__ = "telemetry"
    __table_args__ = (
        UniqueConstraint("device_id", "model", "manifest_sha256", "window_start"),
        Index(None, "tenant", "model", "window_start"),
    )

    id: Mapped[Serial]
    tenant: Mapped[TenantId]
    device_id: Mapped[str] = mapped_column(ForeignKey("devices.id"))
    model: Mapped[Name]
    manifest_sha256: Mapped[Digest]
    window_start: Mapped[Instant]
    window_end: Mapped[Instant]
    received_at: Mapped[Created]
    requests: Mapped[Bytes]
    failed: Mapped[Bytes]
    latency_ms: Mapped[Json] = mapped_column(JsonColumn)  # {"p50","p95","p99"}
    histograms: Mapped[Json] = mapped_column(JsonColumn)  # {name: {"edges","counts"}}
    host: Mapped[Json] = mapped_column(JsonColumn)  # {"memory_bytes","cpu","temperature_c"}


class Part(Base):
    """A running part of the server (web, devices, gateway, engine, broker) and its last beat.

    Kept for all tenants together: the parts serve them all.
    """

    __tablename__ = "parts"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    instance: Mapped[str] = mapped_column(String(64), primary_key=True)
    started_at: Mapped[Instant]
    beat_at: Mapped[Instant]
    detail: Mapped[Json] = mapped_column(JsonColumn, default=dict)
