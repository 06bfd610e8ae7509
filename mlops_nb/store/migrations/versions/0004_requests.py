"""Number of requests by minute and status."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade():
    """Apply this revision."""
    op.create_table(
        "requests",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("n", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_requests"),
    )
    op.create_index("ix_requests_name_at", "requests", ["name", "at"])


def downgrade():
    """Revert this revision."""
    op.drop_table("requests")
