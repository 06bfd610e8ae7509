"""Every prediction, and the labels that arrive later."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade():
    """Apply this revision."""
    op.create_table(
        "predictions",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("role", sa.String(15), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ms", sa.Float, nullable=False),
        sa.Column("inputs", sa.JSON, nullable=False),
        sa.Column("prediction", sa.JSON, nullable=False),
        sa.Column("probability", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_predictions"),
    )
    op.create_index("ix_predictions_name_at", "predictions", ["name", "at"])
    op.create_table(
        "labels",
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("label", sa.JSON, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_labels"),
    )
    op.create_index("ix_labels_at", "labels", ["at"])


def downgrade():
    """Revert this revision."""
    op.drop_table("labels")
    op.drop_table("predictions")
