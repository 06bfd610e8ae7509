"""Find the newest predictions of one version, however many others there are."""

from alembic import op

revision, down_revision = "0007", "0006"


def upgrade():
    """Apply this revision."""
    op.create_index("ix_predictions_name_version_at", "predictions", ["name", "version", "at"])


def downgrade():
    """Revert this revision."""
    op.drop_index("ix_predictions_name_version_at", "predictions")
