"""Incidents, the incident of an alert, and what the workers of a service counted in the trial of a canary."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0008", "0007"


def upgrade():
    """Apply this revision; the new column may be missing, so that the previous release goes on inserting alerts."""
    op.create_table(
        "incidents",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.Column("cause", sa.JSON(none_as_null=True)),
        sa.Column("notifications", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_incidents"),
    )
    op.create_index("ix_incidents_name_opened_at", "incidents", ["name", "opened_at"])
    is_open = sa.text("closed_at IS NULL")
    op.create_index(
        "uq_incidents_open", "incidents", ["name"], unique=True, sqlite_where=is_open, postgresql_where=is_open
    )
    op.add_column("alerts", sa.Column("incident", sa.Integer))
    op.create_index("ix_alerts_incident", "alerts", ["incident"])
    op.create_table(
        "canary_counts",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("trial", sa.String(63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counts", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_canary_counts"),
    )
    op.create_index("ix_canary_counts_name_trial", "canary_counts", ["name", "trial"])


def downgrade():
    """Revert this revision."""
    op.drop_table("canary_counts")
    op.drop_index("ix_alerts_incident", "alerts")
    op.drop_column("alerts", "incident")
    op.drop_table("incidents")
