"""Models, their versions, where the aliases stand, and who moved them."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade():
    """Apply this revision."""
    op.create_table(
        "models",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    op.create_table(
        "versions",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("identity", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("location", sa.String(255), nullable=False),
        sa.Column("run_id", sa.String(63)),
        sa.Column("gates_passed", sa.Boolean, nullable=False),
        sa.Column("manifest", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name="pk_versions"),
        sa.ForeignKeyConstraint(["name"], ["models.name"], name="fk_versions_name"),
    )
    op.create_index("ix_versions_identity", "versions", ["name", "identity"])
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("name", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(["name"], ["models.name"], name="fk_aliases_name"),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["versions.name", "versions.version"], name="fk_aliases_name_version"
        ),
    )
    op.create_table(
        "history",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("alias", sa.String(63), nullable=False),
        sa.Column("action", sa.String(15), nullable=False),
        sa.Column("from_version", sa.Integer),
        sa.Column("to_version", sa.Integer, nullable=False),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_history"),
        sa.ForeignKeyConstraint(["name"], ["models.name"], name="fk_history_name"),
    )
    op.create_index("ix_history_name_alias", "history", ["name", "alias"])


def downgrade():
    """Revert this revision."""
    for table in ("history", "aliases", "versions", "models"):
        op.drop_table(table)
