"""Health reports, and the alerts that follow from them."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade():
    """Apply this revision."""
    op.create_table(
        "health",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(15), nullable=False),
        sa.Column("report", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_health"),
    )
    op.create_index("ix_health_name_at", "health", ["name", "at"])
    op.create_table(
        "alerts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(31), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("size", sa.Float, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("figures", sa.JSON, nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True)),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index("ix_alerts_name_opened_at", "alerts", ["name", "opened_at"])
    is_open = sa.text("closed_at IS NULL")
    columns = ["name", "kind", "subject"]
    op.create_index("uq_alerts_open", "alerts", columns, unique=True, sqlite_where=is_open, postgresql_where=is_open)


def downgrade():
    """Revert this revision."""
    op.drop_table("alerts")
    op.drop_table("health")
