"""Decisions about retraining, and locks that outlive no holder."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade():
    """Apply this revision."""
    op.create_table(
        "decisions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("looks", sa.Integer, nullable=False),
        sa.Column("action", sa.String(15), nullable=False),
        sa.Column("reasons", sa.JSON, nullable=False),
        sa.Column("champion", sa.Integer),
        sa.Column("challenger", sa.Integer),
        sa.Column("run_id", sa.String(63)),
        sa.Column("figures", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_decisions"),
    )
    op.create_index("ix_decisions_name_at", "decisions", ["name", "at"])
    op.create_table(
        "locks",
        sa.Column("name", sa.String(127), nullable=False),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_locks"),
    )


def downgrade():
    """Revert this revision."""
    op.drop_table("locks")
    op.drop_table("decisions")
