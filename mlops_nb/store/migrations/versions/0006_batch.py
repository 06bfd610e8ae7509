"""Batch jobs, and their chunks that are done."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0006", "0005"


def upgrade():
    """Apply this revision."""
    op.create_table(
        "batch_jobs",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("input", sa.Text, nullable=False),
        sa.Column("output", sa.Text, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("state", sa.String(15), nullable=False),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("rejected", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_batch_jobs"),
    )
    op.create_index("ix_batch_jobs_name_started_at", "batch_jobs", ["name", "started_at"])
    op.create_table(
        "batch_chunks",
        sa.Column("job", sa.String(63), nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("rejected", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("job", "number", name="pk_batch_chunks"),
    )


def downgrade():
    """Revert this revision."""
    op.drop_table("batch_chunks")
    op.drop_table("batch_jobs")
