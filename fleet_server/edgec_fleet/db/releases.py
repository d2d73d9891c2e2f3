"""Tables of models, releases, their variants, and the bytes behind them."""

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

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


class Model(Base):
    """A model line: the releases of one name, and its acceptance set if it has one."""

    __tablename__ = "models"

    tenant: Mapped[TenantId] = mapped_column(primary_key=True)
    name: Mapped[Name] = mapped_column(primary_key=True)
    created_at: Mapped[Created]
    acceptance_sha256: Mapped[Digest | None]  # as acceptance.json names it; the blob is stored
    acceptance_bytes: Mapped[Bytes | None]
    acceptance_minimum: Mapped[float | None]
    acceptance_metric: Mapped[str | None] = mapped_column(String(32))


class Release(Base):
    """One version of one model, in variants for one or several hardware profiles.

    `state`: "unsigned" (stored, no signed targets.json names it yet) -> "published"
    -> "withdrawn" (signed targets no longer name it; devices refuse it).
    `number` is the manifest's `release`, which grows with each release of the model.
    `audience_at`: when the versions in the field were last counted, so that patches from them are
    made before devices ask; None: to be counted.
    """

    __tablename__ = "releases"
    __table_args__ = (
        UniqueConstraint("tenant", "model", "version"),
        CheckConstraint("state IN ('unsigned', 'published', 'withdrawn')", name="state"),
    )

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    model: Mapped[Name]
    version: Mapped[str] = mapped_column(String(128))
    number: Mapped[Bytes]
    state: Mapped[str] = mapped_column(String(16), default="unsigned")
    created_at: Mapped[Created]
    created_by: Mapped[str | None] = mapped_column(ForeignKey("actors.id"))
    published_at: Mapped[Instant | None]
    withdrawn_at: Mapped[Instant | None]
    withdrawn_reason: Mapped[LongText | None]
    audience_at: Mapped[Instant | None]

    variants: Mapped[list["Variant"]] = relationship(
        back_populates="release", order_by="Variant.profile"
    )


class Variant(Base):
    """A release compiled for one profile: one bundle, known by its manifest's digest.

    `manifest` is the parsed manifest, for reading and filtering only; the canonical bytes are
    the blob `manifest_sha256`. `signed` says that the current targets.json names it.
    `measurements` came beside the bundle, unpinned and unsigned: shown, never relied upon.
    """

    __tablename__ = "variants"
    __table_args__ = (
        UniqueConstraint("release_id", "profile"),
        UniqueConstraint("tenant", "manifest_sha256"),
    )

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    release_id: Mapped[str] = mapped_column(ForeignKey("releases.id"), index=True)
    profile: Mapped[Name]
    manifest_sha256: Mapped[Digest]
    manifest_bytes: Mapped[Bytes]
    target_path: Mapped[str] = mapped_column(String(512))
    manifest: Mapped[Json] = mapped_column(JsonColumn)
    measurements: Mapped[Json | None] = mapped_column(JsonColumn)
    signed: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[Created]

    release: Mapped[Release] = relationship(back_populates="variants")
    files: Mapped[list["VariantFile"]] = relationship(order_by="VariantFile.role")


class VariantFile(Base):
    """One pinned file of a variant; `shipped` files are fetched by devices."""

    __tablename__ = "variant_files"

    variant_id: Mapped[str] = mapped_column(ForeignKey("variants.id"), primary_key=True)
    role: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[TenantId]
    path: Mapped[str] = mapped_column(String(512))
    sha256: Mapped[Digest] = mapped_column(index=True)
    bytes: Mapped[Bytes]
    shipped: Mapped[bool]


class Blob(Base):
    """Bytes that a tenant may fetch by digest; the bytes themselves lie in the blob store.

    `kind`: "manifest", "file" (any role), "patch", "metadata" (a trust metadata set),
    "acceptance". A tenant without this row gets 404, whatever the store holds.
    """

    __tablename__ = "blobs"

    tenant: Mapped[TenantId] = mapped_column(primary_key=True)
    sha256: Mapped[Digest] = mapped_column(primary_key=True)
    bytes: Mapped[Bytes]
    kind: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[Created]


class Patch(Base):
    """A delta between two blobs, made once for all devices that can use it.

    `state`: "queued" -> "making" -> "ready" (sha256 and bytes set, blob stored), "larger" (not
    clearly smaller than the compressed full file, or over the cap) or "failed" (with reason).
    `audience` is how many devices were known to run the base; `asked` says that one of them waits.
    `maker` is the gateway that makes it, in its `attempts`-th try; `cpu_s` is what it took.
    """

    __tablename__ = "patches"
    __table_args__ = (
        UniqueConstraint("tenant", "base_sha256", "new_sha256", "format"),
        CheckConstraint("state IN ('queued', 'making', 'ready', 'larger', 'failed')", name="state"),
        Index(None, "state", "created_at"),
    )

    id: Mapped[Key]
    tenant: Mapped[TenantId]
    base_sha256: Mapped[Digest]
    new_sha256: Mapped[Digest] = mapped_column(index=True)
    format: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16), default="queued")
    sha256: Mapped[Digest | None]
    bytes: Mapped[Bytes | None]
    reason: Mapped[LongText | None]
    audience: Mapped[int] = mapped_column(default=0)
    asked: Mapped[bool] = mapped_column(default=False)
    maker: Mapped[str | None] = mapped_column(String(64))
    attempts: Mapped[int] = mapped_column(default=0)
    cpu_s: Mapped[float | None]
    created_at: Mapped[Created]
    started_at: Mapped[Instant | None]
    finished_at: Mapped[Instant | None]


class TrustMetadata(Base):
    """One TUF metadata file of a tenant's image repository, as signed.

    `filename` is that of TUF's consistent snapshots: "1.root.json", "7.targets.json",
    "timestamp.json". All versions of root are kept, of the others the last two.
    """

    __tablename__ = "trust_metadata"

    tenant: Mapped[TenantId] = mapped_column(primary_key=True)
    filename: Mapped[str] = mapped_column(String(64), primary_key=True)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[Created]


class TrustSet(Base):
    """The tenant's current metadata set: the one blob that every `desired` message names.

    `generation` grows with each publication; a refresh of the timestamp alone counts too.
    """

    __tablename__ = "trust_sets"

    tenant: Mapped[TenantId] = mapped_column(primary_key=True)
    generation: Mapped[Bytes]
    sha256: Mapped[Digest]
    bytes: Mapped[Bytes]
    expires_at: Mapped[Instant]  # of its timestamp; signed anew well before
    made_at: Mapped[Created]
