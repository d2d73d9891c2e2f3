"""Patches made ahead: who counts on them, and what they may cost."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _of_patches() -> list[sa.Column[Any]]:
    return [
        sa.Column("audience", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("asked", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("maker", sa.String(64)),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("cpu_s", sa.Double()),
    ]


def upgrade() -> None:
    """Add the columns. Releases from before have been rolled out: their audience is known."""
    op.add_column("releases", sa.Column("audience_at", sa.DateTime(timezone=True)))
    op.execute("UPDATE releases SET audience_at = published_at")
    for column in _of_patches():
        op.add_column("patches", column)


def downgrade() -> None:
    """Drop the columns."""
    for column in _of_patches():
        op.drop_column("patches", column.name)
    op.drop_column("releases", "audience_at")
