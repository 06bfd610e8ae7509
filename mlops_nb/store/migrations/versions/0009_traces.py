"""Trace ids of predictions."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0009", "0008"


def upgrade():
    """Apply this revision; the new column may be missing, so that the previous release goes on inserting predictions."""
    op.add_column("predictions", sa.Column("trace_id", sa.String(32)))
    is_traced = sa.text("trace_id IS NOT NULL")
    op.create_index(
        "ix_predictions_trace_id", "predictions", ["trace_id"], sqlite_where=is_traced, postgresql_where=is_traced
    )


def downgrade():
    """Revert this revision."""
    op.drop_index("ix_predictions_trace_id", "predictions")
    op.drop_column("predictions", "trace_id")
