"""Predictions of requests with many rows, a row a request, the batch of a label, and an index that counts the rows of a time."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0011", "0010"


def upgrade():
    """Apply this revision; the new column may be missing, so that the previous release goes on inserting labels."""
    op.create_table(
        "prediction_batches",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("role", sa.String(15), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ms", sa.Float, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("trace_id", sa.String(32)),
        sa.Column("outputs", sa.LargeBinary, nullable=False),
        sa.Column("inputs", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_prediction_batches"),
    )
    op.create_index("ix_prediction_batches_name_at", "prediction_batches", ["name", "at"])
    op.create_index("ix_prediction_batches_name_version_at", "prediction_batches", ["name", "version", "at"])
    is_traced = sa.text("trace_id IS NOT NULL")
    op.create_index(
        "ix_prediction_batches_trace_id",
        "prediction_batches",
        ["trace_id"],
        sqlite_where=is_traced,
        postgresql_where=is_traced,
    )
    op.create_index("ix_predictions_name_role_at", "predictions", ["name", "role", "at"])
    op.add_column("labels", sa.Column("batch", sa.String(63)))
    is_batched = sa.text("batch IS NOT NULL")
    op.create_index("ix_labels_batch", "labels", ["batch"], sqlite_where=is_batched, postgresql_where=is_batched)


def downgrade():
    """Revert this revision."""
    op.drop_index("ix_labels_batch", "labels")
    op.drop_column("labels", "batch")
    op.drop_index("ix_predictions_name_role_at", "predictions")
    op.drop_table("prediction_batches")
