"""What all tables share: the declarative base, column types and constraint names."""

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

NAMING_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC instant, on every database. Refuses naive datetimes."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return `value` in UTC; SQLite stores it without its offset."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("expected an aware datetime, got a naive one")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the stored instant as an aware UTC datetime."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text of any length from anywhere; NUL, which PostgreSQL cannot hold, becomes U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Return `value` without NUL."""
        return None if value is None else value.replace("\0", "\ufffd")


class Base(DeclarativeBase):
    """Root of all tables. Every table but `tenants` carries the tenant it belongs to."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


def attributes(row: Base, *relationships: str) -> dict[str, Any]:
    """Return the columns of `row` by name, and the named (loaded) relationships."""
    names = [column.key for column in row.__table__.columns]
    return {name: getattr(row, name) for name in (*names, *relationships)}


def utcnow() -> datetime:
    """Return now as an aware UTC datetime."""
    return datetime.now(UTC)


def new_id() -> str:
    """Return a fresh random id: 32 lowercase hex digits."""
    return uuid.uuid4().hex


Json = Any
JsonColumn = JSON().with_variant(JSONB(), "postgresql")
BigId = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers INTEGER keys only

Key = Annotated[str, mapped_column(String(32), primary_key=True, default=new_id)]
Serial = Annotated[int, mapped_column(BigId, primary_key=True, autoincrement=True)]
TenantId = Annotated[str, mapped_column(String(63), ForeignKey("tenants.id"))]
Name = Annotated[str, mapped_column(String(63))]
Digest = Annotated[str, mapped_column(String(64))]
LongText = Annotated[str, mapped_column(CleanText)]
Bytes = Annotated[int, mapped_column(BigInteger)]
Instant = Annotated[datetime, mapped_column(UtcDateTime)]
Created = Annotated[datetime, mapped_column(UtcDateTime, default=utcnow)]
