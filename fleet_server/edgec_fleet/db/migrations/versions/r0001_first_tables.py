"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(JSONB(), "postgresql")
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _parts() -> None:
    op.create_table(
        "parts",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("instance", sa.String(64), nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("beat_at", INSTANT, nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.PrimaryKeyConstraint("name", "instance", name=op.f("pk_parts")),
    )


def _rate_windows() -> None:
    op.create_table(
        "rate_windows",
        sa.Column("bucket", sa.String(128), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "window_start", name=op.f("pk_rate_windows")),
    )


def _tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("title", sa.String(255), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
    )


def _actors() -> None:
    op.create_table(
        "actors",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.String(255), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("disabled_at", INSTANT, nullable=True),
        sa.Column("last_login_at", INSTANT, nullable=True),
        sa.CheckConstraint("kind IN ('user', 'system')", name=op.f("ck_actors_kind")),
        sa.CheckConstraint(
            "role IN ('viewer', 'operator', 'releaser', 'admin')", name=op.f("ck_actors_role")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_actors_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_actors")),
        sa.UniqueConstraint("tenant", "name", name=op.f("uq_actors_tenant_name")),
    )


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("actor_id", sa.String(32), nullable=True),
        sa.Column("actor_name", sa.String(255), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("object_kind", sa.String(32), nullable=False),
        sa.Column("object_id", sa.String(255), nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.Column("previous_sha256", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_audit_tenant")),
        sa.PrimaryKeyConstraint("tenant", "seq", name=op.f("pk_audit")),
    )
    op.create_index(
        op.f("ix_audit_tenant_object_kind_object_id"),
        "audit",
        ["tenant", "object_kind", "object_id"],
    )


def _blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_blobs_tenant")),
        sa.PrimaryKeyConstraint("tenant", "sha256", name=op.f("pk_blobs")),
    )


def _certificates() -> None:
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("spki_sha256", sa.String(64), nullable=False),
        sa.Column("not_before", INSTANT, nullable=False),
        sa.Column("not_after", INSTANT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("revoked_reason", sa.String(64), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_certificates_tenant")),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificates")),
    )
    op.create_index(op.f("ix_certificates_subject"), "certificates", ["subject"])


def _devices() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("profiles", JSON, nullable=False),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("enrolled_at", INSTANT, nullable=False),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("revoked_reason", sa.Text(), nullable=True),
        sa.Column("certificate_serial", sa.String(40), nullable=True),
        sa.Column("certificate_expires_at", INSTANT, nullable=True),
        sa.Column("boot_id", sa.String(64), nullable=True),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("last_contact_at", INSTANT, nullable=True),
        sa.Column("hello", JSON, nullable=True),
        sa.Column("hello_at", INSTANT, nullable=True),
        sa.Column("models", JSON, nullable=False),
        sa.Column("state_at", INSTANT, nullable=True),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_devices_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
    )
    op.create_index(op.f("ix_devices_tenant_online"), "devices", ["tenant", "online"])


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("acceptance_sha256", sa.String(64), nullable=True),
        sa.Column("acceptance_bytes", sa.BigInteger(), nullable=True),
        sa.Column("acceptance_minimum", sa.Double(), nullable=True),
        sa.Column("acceptance_metric", sa.String(32), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_models_tenant")),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_models")),
    )


def _patches() -> None:
    op.create_table(
        "patches",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("base_sha256", sa.String(64), nullable=False),
        sa.Column("new_sha256", sa.String(64), nullable=False),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.CheckConstraint(
            "state IN ('queued', 'making', 'ready', 'larger', 'failed')",
            name=op.f("ck_patches_state"),
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_patches_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patches")),
        sa.UniqueConstraint(
            "tenant",
            "base_sha256",
            "new_sha256",
            "format",
            name=op.f("uq_patches_tenant_base_sha256_new_sha256_format"),
        ),
    )
    op.create_index(op.f("ix_patches_new_sha256"), "patches", ["new_sha256"])
    op.create_index(op.f("ix_patches_state_created_at"), "patches", ["state", "created_at"])


def _trust_metadata() -> None:
    op.create_table(
        "trust_metadata",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("filename", sa.String(64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_trust_metadata_tenant")),
        sa.PrimaryKeyConstraint("tenant", "filename", name=op.f("pk_trust_metadata")),
    )


def _trust_sets() -> None:
    op.create_table(
        "trust_sets",
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("made_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_trust_sets_tenant")),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_trust_sets")),
    )


def _alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("object_kind", sa.String(32), nullable=False),
        sa.Column("object_id", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", JSON, nullable=False),
        sa.Column("opened_at", INSTANT, nullable=False),
        sa.Column("closed_at", INSTANT, nullable=True),
        sa.Column("acknowledged_at", INSTANT, nullable=True),
        sa.Column("acknowledged_by", sa.String(32), nullable=True),
        sa.ForeignKeyConstraint(
            ["acknowledged_by"], ["actors.id"], name=op.f("fk_alerts_acknowledged_by")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_alerts_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    op.create_index(op.f("ix_alerts_tenant_closed_at"), "alerts", ["tenant", "closed_at"])


def _api_tokens() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("actor_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("last_used_at", INSTANT, nullable=True),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["actor_id"], ["actors.id"], name=op.f("fk_api_tokens_actor_id")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_api_tokens_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_api_tokens_secret_sha256")),
    )
    op.create_index(op.f("ix_api_tokens_actor_id"), "api_tokens", ["actor_id"])


def _assignments() -> None:
    op.create_table(
        "assignments",
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("counter", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("targets", JSON, nullable=False),
        sa.Column("rollouts", JSON, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=True),
        sa.Column("trust_generation", sa.BigInteger(), nullable=True),
        sa.Column("issued_at", INSTANT, nullable=True),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("published_at", INSTANT, nullable=True),
        sa.Column("superseded_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_assignments_device_id")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_assignments_tenant")),
        sa.PrimaryKeyConstraint("device_id", "counter", name=op.f("pk_assignments")),
    )
    op.create_index(
        op.f("ix_assignments_published_at_created_at"),
        "assignments",
        ["published_at", "created_at"],
    )


def _device_events() -> None:
    op.create_table(
        "device_events",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("reported_at", INSTANT, nullable=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("message_id", sa.String(64), nullable=True),
        sa.Column("boot_id", sa.String(64), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("model", sa.String(63), nullable=True),
        sa.Column("manifest_sha256", sa.String(64), nullable=True),
        sa.Column("counter", sa.BigInteger(), nullable=True),
        sa.Column("rollout_id", sa.String(32), nullable=True),
        sa.Column("phase", sa.String(32), nullable=True),
        sa.Column("previous_phase", sa.String(32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("evidence", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_device_events_device_id")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_device_events_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_events")),
        sa.UniqueConstraint(
            "device_id", "message_id", name=op.f("uq_device_events_device_id_message_id")
        ),
    )
    op.create_index(op.f("ix_device_events_device_id_id"), "device_events", ["device_id", "id"])
    op.create_index(op.f("ix_device_events_rollout_id"), "device_events", ["rollout_id"])
    op.create_index(op.f("ix_device_events_tenant_at"), "device_events", ["tenant", "at"])


def _enrolment_tokens() -> None:
    op.create_table(
        "enrolment_tokens",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("note", sa.String(255), nullable=False),
        sa.Column("tags", JSON, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("created_by", sa.String(32), nullable=True),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("max_uses", sa.Integer(), nullable=False),
        sa.Column("uses", sa.Integer(), nullable=False),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(
            ["created_by"], ["actors.id"], name=op.f("fk_enrolment_tokens_created_by")
        ),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.id"], name=op.f("fk_enrolment_tokens_tenant")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrolment_tokens")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_enrolment_tokens_secret_sha256")),
    )


def _releases() -> None:
    op.create_table(
        "releases",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("created_by", sa.String(32), nullable=True),
        sa.Column("published_at", INSTANT, nullable=True),
        sa.Column("withdrawn_at", INSTANT, nullable=True),
        sa.Column("withdrawn_reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state IN ('unsigned', 'published', 'withdrawn')", name=op.f("ck_releases_state")
        ),
        sa.ForeignKeyConstraint(["created_by"], ["actors.id"], name=op.f("fk_releases_created_by")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_releases_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_releases")),
        sa.UniqueConstraint(
            "tenant", "model", "version", name=op.f("uq_releases_tenant_model_version")
        ),
    )


def _telemetry() -> None:
    op.create_table(
        "telemetry",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("manifest_sha256", sa.String(64), nullable=False),
        sa.Column("window_start", INSTANT, nullable=False),
        sa.Column("window_end", INSTANT, nullable=False),
        sa.Column("received_at", INSTANT, nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("latency_ms", JSON, nullable=False),
        sa.Column("histograms", JSON, nullable=False),
        sa.Column("host", JSON, nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_telemetry_device_id")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_telemetry_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_telemetry")),
        sa.UniqueConstraint(
            "device_id",
            "model",
            "manifest_sha256",
            "window_start",
            name=op.f("uq_telemetry_device_id_model_manifest_sha256_window_start"),
        ),
    )
    op.create_index(
        op.f("ix_telemetry_tenant_model_window_start"),
        "telemetry",
        ["tenant", "model", "window_start"],
    )


def _web_sessions() -> None:
    op.create_table(
        "web_sessions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("actor_id", sa.String(32), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("csrf", sa.String(64), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=False),
        sa.Column("last_used_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["actor_id"], ["actors.id"], name=op.f("fk_web_sessions_actor_id")),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_web_sessions_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_web_sessions")),
        sa.UniqueConstraint("secret_sha256", name=op.f("uq_web_sessions_secret_sha256")),
    )
    op.create_index(op.f("ix_web_sessions_actor_id"), "web_sessions", ["actor_id"])


def _enrolment_uses() -> None:
    op.create_table(
        "enrolment_uses",
        sa.Column("token_id", sa.String(32), nullable=False),
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("spki_sha256", sa.String(64), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_enrolment_uses_device_id")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_enrolment_uses_tenant")),
        sa.ForeignKeyConstraint(
            ["token_id"], ["enrolment_tokens.id"], name=op.f("fk_enrolment_uses_token_id")
        ),
        sa.PrimaryKeyConstraint("token_id", "device_id", name=op.f("pk_enrolment_uses")),
    )


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("release_id", sa.String(32), nullable=False),
        sa.Column("version", sa.String(128), nullable=False),
        sa.Column("strategy", sa.String(16), nullable=False),
        sa.Column("spec", JSON, nullable=False),
        sa.Column("rate_per_minute", sa.Double(), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("created_by", sa.String(32), nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.CheckConstraint(
            "state IN ('running', 'paused', 'completed', 'aborted')", name=op.f("ck_rollouts_state")
        ),
        sa.ForeignKeyConstraint(["created_by"], ["actors.id"], name=op.f("fk_rollouts_created_by")),
        sa.ForeignKeyConstraint(
            ["release_id"], ["releases.id"], name=op.f("fk_rollouts_release_id")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_rollouts_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
    )
    op.create_index(op.f("ix_rollouts_release_id"), "rollouts", ["release_id"])
    op.create_index(op.f("ix_rollouts_tenant_state"), "rollouts", ["tenant", "state"])


def _variants() -> None:
    op.create_table(
        "variants",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("release_id", sa.String(32), nullable=False),
        sa.Column("profile", sa.String(63), nullable=False),
        sa.Column("manifest_sha256", sa.String(64), nullable=False),
        sa.Column("manifest_bytes", sa.BigInteger(), nullable=False),
        sa.Column("target_path", sa.String(512), nullable=False),
        sa.Column("manifest", JSON, nullable=False),
        sa.Column("measurements", JSON, nullable=True),
        sa.Column("signed", sa.Boolean(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["release_id"], ["releases.id"], name=op.f("fk_variants_release_id")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_variants_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_variants")),
        sa.UniqueConstraint("release_id", "profile", name=op.f("uq_variants_release_id_profile")),
        sa.UniqueConstraint(
            "tenant", "manifest_sha256", name=op.f("uq_variants_tenant_manifest_sha256")
        ),
    )
    op.create_index(op.f("ix_variants_release_id"), "variants", ["release_id"])


def _rollout_groups() -> None:
    op.create_table(
        "rollout_groups",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("rollout_id", sa.String(32), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("select", JSON, nullable=False),
        sa.Column("success_threshold", sa.Double(), nullable=False),
        sa.Column("error_threshold", sa.Double(), nullable=False),
        sa.Column("minimum_executed", sa.Integer(), nullable=False),
        sa.Column("soak_s", sa.Double(), nullable=False),
        sa.Column("device_timeout_s", sa.Double(), nullable=False),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'succeeded', 'failed', 'aborted')",
            name=op.f("ck_rollout_groups_state"),
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_rollout_groups_rollout_id")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_rollout_groups_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_groups")),
        sa.UniqueConstraint(
            "rollout_id", "position", name=op.f("uq_rollout_groups_rollout_id_position")
        ),
    )
    op.create_index(op.f("ix_rollout_groups_rollout_id"), "rollout_groups", ["rollout_id"])


def _variant_files() -> None:
    op.create_table(
        "variant_files",
        sa.Column("variant_id", sa.String(32), nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("path", sa.String(512), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("shipped", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_variant_files_tenant")),
        sa.ForeignKeyConstraint(
            ["variant_id"], ["variants.id"], name=op.f("fk_variant_files_variant_id")
        ),
        sa.PrimaryKeyConstraint("variant_id", "role", name=op.f("pk_variant_files")),
    )
    op.create_index(op.f("ix_variant_files_sha256"), "variant_files", ["sha256"])


def _device_updates() -> None:
    op.create_table(
        "device_updates",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("rollout_id", sa.String(32), nullable=False),
        sa.Column("group_id", sa.String(32), nullable=False),
        sa.Column("device_id", sa.String(63), nullable=False),
        sa.Column("variant_id", sa.String(32), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("phase", sa.String(32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("evidence", JSON, nullable=False),
        sa.Column("since", INSTANT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=True),
        sa.Column("assigned_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.Column("transferred_bytes", sa.BigInteger(), nullable=True),
        sa.Column("full_bytes", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_device_updates_device_id")
        ),
        sa.ForeignKeyConstraint(
            ["group_id"], ["rollout_groups.id"], name=op.f("fk_device_updates_group_id")
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_device_updates_rollout_id")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_device_updates_tenant")),
        sa.ForeignKeyConstraint(
            ["variant_id"], ["variants.id"], name=op.f("fk_device_updates_variant_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_updates")),
        sa.UniqueConstraint(
            "rollout_id", "device_id", name=op.f("uq_device_updates_rollout_id_device_id")
        ),
    )
    op.create_index(
        op.f("ix_device_updates_device_id_state"), "device_updates", ["device_id", "state"]
    )
    op.create_index(op.f("ix_device_updates_group_id"), "device_updates", ["group_id"])
    op.create_index(
        op.f("ix_device_updates_rollout_id_state"), "device_updates", ["rollout_id", "state"]
    )


def _rollout_log() -> None:
    op.create_table(
        "rollout_log",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("rollout_id", sa.String(32), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("actor_id", sa.String(32), nullable=True),
        sa.Column("group_id", sa.String(32), nullable=True),
        sa.Column("device_id", sa.String(63), nullable=True),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("before", sa.String(32), nullable=True),
        sa.Column("after", sa.String(32), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("evidence", JSON, nullable=False),
        sa.ForeignKeyConstraint(["actor_id"], ["actors.id"], name=op.f("fk_rollout_log_actor_id")),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_rollout_log_device_id")
        ),
        sa.ForeignKeyConstraint(
            ["group_id"], ["rollout_groups.id"], name=op.f("fk_rollout_log_group_id")
        ),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.id"], name=op.f("fk_rollout_log_rollout_id")
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name=op.f("fk_rollout_log_tenant")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollout_log")),
    )
    op.create_index(op.f("ix_rollout_log_rollout_id_id"), "rollout_log", ["rollout_id", "id"])


_APPEND_ONLY = "the audit trail is append-only"
_SQLITE_GUARDS = [
    f"CREATE TRIGGER audit_no_{verb} BEFORE {verb.upper()} ON audit "
    f"BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
    for verb in ("update", "delete")
]
_POSTGRESQL_GUARDS = [
    "CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $$",
    "CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
    "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()",
]
_TABLES = {
    "parts": _parts,
    "rate_windows": _rate_windows,
    "tenants": _tenants,
    "actors": _actors,
    "audit": _audit,
    "blobs": _blobs,
    "certificates": _certificates,
    "devices": _devices,
    "models": _models,
    "patches": _patches,
    "trust_metadata": _trust_metadata,
    "trust_sets": _trust_sets,
    "alerts": _alerts,
    "api_tokens": _api_tokens,
    "assignments": _assignments,
    "device_events": _device_events,
    "enrolment_tokens": _enrolment_tokens,
    "releases": _releases,
    "telemetry": _telemetry,
    "web_sessions": _web_sessions,
    "enrolment_uses": _enrolment_uses,
    "rollouts": _rollouts,
    "variants": _variants,
    "rollout_groups": _rollout_groups,
    "variant_files": _variant_files,
    "device_updates": _device_updates,
    "rollout_log": _rollout_log,
}


def upgrade() -> None:
    """Create every table, and the triggers that keep the audit trail append-only."""
    for create in _TABLES.values():
        create()
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _SQLITE_GUARDS if sqlite else _POSTGRESQL_GUARDS:
        op.execute(statement)


def downgrade() -> None:
    """Drop every table."""
    for table in reversed(_TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION audit_is_append_only()")
