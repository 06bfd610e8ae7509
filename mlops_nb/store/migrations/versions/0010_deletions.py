"""Versions that were deleted."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0010", "0009"


def upgrade():
    """Apply this revision; the previous release does not read the new table, and lists deleted versions."""
    op.create_table(
        "deletions",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["name"], ["models.name"], name="fk_deletions_name"),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["versions.name", "versions.version"], name="fk_deletions_name_version"
        ),
        sa.PrimaryKeyConstraint("name", "version", name="pk_deletions"),
    )


def downgrade():
    """Revert this revision."""
    op.drop_table("deletions")
