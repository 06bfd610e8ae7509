"""How commands end when the machine denies them something: one sentence, no traceback, no password."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlops_nb.cli.main import main
from tests.factories import ROOT, free_port, make_home

READERS = [
    "models list", "models list toy", "models show toy", "models diff toy 1 2", "models history toy",
    "models replay toy 2", "monitor toy", "predict --list", "explain abc", "reproduce toy 1", "investigate toy",
]  # fmt: skip
WRITERS = [
    "models promote toy 1", "models rollback toy", "retrain toy", "retrain toy --if-needed", "traffic toy",
    "predict toy --input in.csv --output out.csv",
]  # fmt: skip
PASSWORD = "hunter22hunter22"
AWAY = f"postgresql+psycopg://ada:{PASSWORD}@127.0.0.1:1/mlops?application_name={PASSWORD}"


@pytest.fixture(scope="module")
def toy_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("toy")
    make_home(home, promoted=2)
    (home / "in.csv").write_text("id,a,b\n1,1,0\n2,0,1\n")
    with closing(sqlite3.connect(home / "store/mlops.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return home


@pytest.fixture
def home(toy_home, tmp_path, monkeypatch):
    """A project in which everything works, and the working directory."""
    for name in [n for n in os.environ if n.startswith("MLOPS_")]:
        monkeypatch.delenv(name)
    shutil.copytree(toy_home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def sentence(done) -> str:
    """The one sentence with which a command failed."""
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.output
    assert PASSWORD not in done.output
    last = done.output.splitlines()[-1]
    assert last.startswith("Error: "), done.output
    assert "Unexpected" not in last, last
    assert len(last) < 600
    return last


def invoke(words: str, **environ: str):
    return CliRunner().invoke(main, words.split(), env=environ)


def garbage(file: Path):
    file.write_bytes(os.urandom(8192))


def truncated(file: Path):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def directory(file: Path):
    file.unlink()
    file.mkdir()


def without_tables(file: Path):
    with closing(sqlite3.connect(file)) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in set(names) - {"alembic_version", "sqlite_sequence"}:
            database.execute(f"DROP TABLE {name}")
        database.commit()


def without_revision(file: Path):
    with closing(sqlite3.connect(file)) as database:
        database.execute("DELETE FROM alembic_version")
        database.commit()


def of_another_program(file: Path):
    with closing(sqlite3.connect(file)) as database:
        database.execute("UPDATE alembic_version SET version_num = '0003abcdef'")
        database.commit()


@pytest.mark.slow
@pytest.mark.parametrize("words", [*READERS, *WRITERS])
@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (garbage, "mlops.db is damaged (file is not a database)"),
        (truncated, "mlops.db is damaged (database disk image is malformed)"),
        (directory, "mlops.db cannot be opened"),
        (without_tables, "mlops.db is incomplete (no such table: "),
        (without_revision, "mlops.db is incomplete (table "),
        (of_another_program, "at revision '0003abcdef', which mlops-nb does not have"),
    ],
)
def test_spoilt_database_ends_a_command_with_one_sentence(home, spoil, problem, words):
    spoil(home / "store/mlops.db")
    assert problem in sentence(invoke(words))


@pytest.mark.slow
@pytest.mark.parametrize("words", ["models list", "models show toy", "serve", "monitor toy", WRITERS[-1]])
def test_an_emptied_database_is_no_new_project(home, words):
    (home / "store/mlops.db").write_bytes(b"")
    found = sentence(invoke(words))
    assert "mlops.db is an empty file (0 bytes): what it held is lost. Restore a backup" in found
    assert (home / "store/mlops.db").stat().st_size == 0


@pytest.mark.slow
def test_an_emptied_database_is_found_by_the_doctor(home):
    (home / "store/mlops.db").write_bytes(b"")
    assert "mlops.db is an empty file (0 bytes)" in invoke("doctor").output


def test_a_new_database_beside_bundles_is_named(home):
    for file in (home / "store").glob("mlops.db*"):
        file.unlink()
    lost = "the artifact store has bundles of 'toy': the database is new, or was emptied. Restore a backup"
    assert lost in sentence(invoke("models show toy"))
    assert lost in sentence(invoke(WRITERS[-1]))
    assert lost in sentence(invoke("models promote toy 1"))
    listed = invoke("models list")
    assert listed.exit_code == 0
    assert lost in listed.output


def test_a_new_project_is_not_told_of_a_loss(home):
    shutil.rmtree(home / "store")
    assert invoke("models list").output == "No model is registered yet: run ploomber build.\n"
    assert "bundles" not in sentence(invoke("models show toy"))


@pytest.mark.parametrize("words", [*READERS, *WRITERS])
def test_database_that_is_away_is_named_without_its_password(home, words):
    found = sentence(invoke(words, MLOPS_DATABASE_URL=AWAY))
    assert "The database postgresql+psycopg://ada:***@127.0.0.1:1/mlops does not respond" in found


@pytest.mark.parametrize("words", [*READERS, *WRITERS])
def test_path_below_a_file_is_named(home, words):
    (home / "file").touch()
    found = sentence(invoke(words, MLOPS_DATABASE_URL=f"sqlite:///{home}/file/below/mlops.db"))
    assert f"{home}/file/below cannot be used (Not a directory)" in found


@pytest.mark.parametrize("words", [*WRITERS, "models show toy", "monitor toy"])
def test_store_in_whose_place_a_file_lies_is_named(home, words):
    shutil.rmtree(home / "store")
    (home / "store").touch()
    assert f"{home}/store cannot be used (File exists)" in sentence(invoke(words))


PROGRAM = """
import resource, sys
limit = int(sys.argv.pop(1))
if limit >= 0:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from mlops_nb.cli.main import main
main()
"""


def run(*words: str, home: Path, limit: int = -1, before: tuple[str, ...] = ()) -> str:
    """Run a command that must fail in a process of its own; return what it printed last."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_")}
    done = subprocess.run(
        [*before, sys.executable, "-c", PROGRAM, str(limit), *words],
        cwd=home, env=kept | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode == 1, output
    assert "Traceback" not in output
    return output.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["models promote toy 1", "monitor toy", "predict toy --input in.csv --output out.csv"]
)
@pytest.mark.parametrize("limit", [0, 4096, 20_000])
def test_full_disk_is_one_sentence_and_leaves_the_registry_as_it_was(home, words, limit):
    before = invoke("models list").output
    last = run(*words.split(), home=home, limit=limit)
    assert f"The database sqlite:///{home}/store/mlops.db cannot be written" in last
    assert "Free some space" in last
    assert invoke("models list").output == before


@pytest.mark.slow
def test_full_disk_leaves_no_half_project(tmp_path):
    last = run("new", "shop", home=tmp_path, limit=4096)
    assert last.startswith(f"Error: No space is left to write {tmp_path}/")
    assert not list(tmp_path.glob("*shop*"))


def without_permissions() -> tuple[str, ...]:
    """The words before a command that make permissions hold for root too."""
    if os.getuid() != 0:
        return ()
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


@pytest.fixture
def read_only(home):
    yield home
    subprocess.run(["chmod", "-R", "u+w", str(home)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["models promote toy 1", "retrain toy", "models list"])
def test_database_without_permission_is_one_sentence(read_only, words):
    subprocess.run(["chmod", "-R", "a-w", str(read_only)], check=True)
    last = run(*words.split(), home=read_only, before=without_permissions())
    assert f"The database sqlite:///{read_only}/store/mlops.db refuses to be written" in last


@pytest.mark.slow
def test_no_permission_for_a_new_project_is_found_before_its_table_is_read(tmp_path):
    tmp_path.chmod(0o555)
    last = run("new", "shop", "--data", "absent.csv", "--target", "y", home=tmp_path, before=without_permissions())
    tmp_path.chmod(0o755)
    assert last.startswith(f"Error: No permission for {tmp_path} (Permission denied).")


@pytest.mark.parametrize("output", ["file/out.csv", "file/below/parts"])
def test_output_that_cannot_be_written_is_found_before_the_input_is_read(home, output):
    (home / "file").touch()
    found = sentence(invoke(f"predict toy --input absent.csv --output {output}"))
    assert f"{home}/file cannot be used (Not a directory)" in found
    assert not (home / "store/batch").exists() or not [p for p in (home / "store/batch").iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("mlops_nb.examples.loan", "There is no module 'mlops_nb.examples.loan'"),
        ("mlops_nb/examples/loans.py", "'mlops_nb/examples/loans.py' is not a module name"),
        ("mlops_nb.errors", "mlops_nb.errors has no ModelSpec called 'spec'"),
        ("raises_", "raises_ cannot be imported (raises_.py, line 2): ValueError: no such thing"),
        ("half_written", "half_written cannot be imported: SyntaxError:"),
        (
            "needs_more",
            "needs_more cannot be imported (needs_more.py, line 1): ModuleNotFoundError: ",
        ),
    ],
)
def test_misspelt_or_broken_spec_is_one_sentence(home, monkeypatch, spec, problem):
    monkeypatch.syspath_prepend(str(home))
    (home / "raises_.py").write_text("x = 1\nraise ValueError('no such thing')\n")
    (home / "half_written.py").write_text("def f(:\n")
    (home / "needs_more.py").write_text("import absent_\n")
    assert problem in sentence(invoke(f"serve --spec {spec} --port {free_port()}"))


def test_service_does_not_start_with_a_damaged_database(home):
    (home / "store/mlops.db").write_bytes(b"no database" * 20)
    assert "is damaged" in sentence(invoke(f"serve --model toy --port {free_port()}"))


def test_defect_keeps_its_traceback_in_a_file_and_debug_raises_it(home, monkeypatch):
    def defect():
        raise KeyError("token hunter22hunter22")

    monkeypatch.setenv("SOME_TOKEN", PASSWORD)
    monkeypatch.setattr("mlops_nb.cli.runs._open_runs", defect)
    done = invoke("runs list")
    assert (done.exit_code, "Traceback" in done.output, PASSWORD in done.output) == (1, False, False)
    first, log = done.output.strip().removesuffix(".").split(". Its traceback is in ")
    assert first.startswith(f"Error: Unexpected KeyError in {__file__}, line ")
    text = Path(log).read_text()
    Path(log).unlink()
    assert text.startswith("Traceback (most recent call last):")
    assert PASSWORD not in text
    assert isinstance(invoke("--debug runs list").exception, KeyError)
