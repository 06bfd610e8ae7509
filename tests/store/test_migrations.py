"""Every revision goes up and down with data in its tables, on both databases, by however many at once."""

import ast
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from mlops_nb.errors import SettingsError
from mlops_nb.store.database import (
    connect,
    migrate,
    migrations_folder,
    open_database,
    reading,
    revision,
    revisions,
    writing,
)
from mlops_nb.store.schema import metadata

REVISIONS = revisions()
VALUES = {sa.Integer: 1, sa.String: "toy", sa.Float: 0.5, sa.Boolean: True, sa.JSON: {"a": [1]}, sa.LargeBinary: b"1"}


@pytest.fixture
def engine(database_url):
    engine = connect(database_url)
    yield engine
    engine.dispose()


def tables(engine) -> dict[str, sa.Table]:
    """What is in the database now."""
    found = sa.MetaData()
    with reading(engine) as connection:
        found.reflect(connection)
    return {t.name: t for t in found.sorted_tables if t.name != "alembic_version"}


def fill(engine):
    """A row in every table that has none; the same value everywhere makes every reference true."""
    now = datetime.now(UTC)
    with writing(engine) as connection:
        for table in tables(engine).values():
            if connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0:
                kinds = {c.name: c.type for c in table.columns}
                row = {c: next((v for k, v in VALUES.items() if isinstance(t, k)), now) for c, t in kinds.items()}
                connection.execute(sa.insert(table).values(row))


def rows(engine) -> dict[str, int]:
    """How many rows every table has."""
    with reading(engine) as connection:
        return {
            name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()
            for name, table in tables(engine).items()
        }


def at(engine) -> str | None:
    with reading(engine) as connection:
        return revision(connection)


@pytest.mark.slow
def test_every_step_goes_up_down_and_up_again_with_data_in_the_tables(engine):
    for before, step in zip(["base", *REVISIONS], REVISIONS, strict=False):
        migrate(engine, step)
        fill(engine)
        filled = rows(engine)
        assert at(engine) == step
        assert set(filled.values()) == {1}
        migrate(engine, before)
        assert at(engine) == (None if before == "base" else before)
        assert rows(engine).items() <= filled.items(), "what stays keeps its rows"
        migrate(engine, step)
        fill(engine)
        assert rows(engine) == filled
    with reading(engine) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    for step in (*REVISIONS[-2::-1], "base"):
        migrate(engine, step)
        assert set(rows(engine).values()) <= {1}
    assert rows(engine) == {}
    migrate(engine)
    assert rows(engine) == dict.fromkeys(metadata.tables, 0)


def test_table_that_a_step_changes_reads_the_same_before_and_after(engine):
    migrate(engine)
    fill(engine)
    with reading(engine) as connection:
        before = {t.name: connection.execute(sa.select(t)).mappings().one() for t in metadata.sorted_tables}
    migrate(engine, REVISIONS[0])
    migrate(engine)
    with reading(engine) as connection:
        for table in metadata.sorted_tables:
            row = connection.execute(sa.select(table)).mappings().one_or_none()
            assert row in (None, before[table.name]), table.name


OPEN = """
import sys
from mlops_nb.store.database import open_database, reading, revision
engine = open_database(sys.argv[1])
with reading(engine) as connection:
    print(revision(connection))
"""


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["base", REVISIONS[0]])
def test_processes_that_migrate_at_once_do_it_once(engine, database_url, begin):
    if begin != "base":
        migrate(engine, begin)
        fill(engine)
    there = rows(engine)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, database_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    outputs = [process.communicate(timeout=180) for process in processes]
    assert outputs == [(f"{REVISIONS[-1]}\n", "")] * 6
    assert there.items() <= rows(engine).items()


@pytest.mark.parametrize("name", ["0000", "9999", "nonsense"])
def test_revision_that_does_not_exist_is_refused_and_nothing_changes(database_url, name):
    engine = open_database(database_url)
    with pytest.raises(SettingsError, match=f"There is no revision '{name}'"):
        migrate(engine, name)
    assert at(engine) == REVISIONS[-1]
    engine.dispose()


def test_migrations_only_add():
    """What an older release does not know of must not be in its way."""
    allowed = {"create_table", "add_column", "create_index", "execute", "batch_alter_table"}
    for file in (migrations_folder() / "versions").glob("[0-9]*.py"):
        tree = ast.parse(file.read_text())
        upgrade = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "upgrade")
        calls = [n for n in ast.walk(upgrade) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
        done = {c.func.attr for c in calls if ast.unparse(c.func.value) in ("op", "batch", "batch_op")}
        assert done <= allowed, f"{file.name}: {sorted(done - allowed)}"
        columns = [ast.unparse(c) for c in calls if c.func.attr == "add_column"]
        assert all("nullable=False" not in c or "server_default" in c for c in columns), file.name


@pytest.mark.slow
def test_database_that_vanishes_without_a_word_is_given_up(postgres_url):
    for url, patience in ((postgres_url, "10"), (f"{postgres_url}&connect_timeout=4", "4")):
        engine = connect(url)
        with reading(engine) as connection:
            given = connection.connection.driver_connection.info.get_parameters()
        engine.dispose()
        assert given["connect_timeout"] == patience, "who names one has it"
        seconds = int(given["keepalives_idle"]) + int(given["keepalives_interval"]) * int(given["keepalives_count"])
        assert seconds <= 60
        assert int(given["tcp_user_timeout"]) <= 60_000
