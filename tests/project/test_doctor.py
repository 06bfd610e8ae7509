"""What `mlops-nb doctor` finds, each check once where all is well and once where it is not."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from mlops_nb.cli.main import main
from mlops_nb.project import doctor
from mlops_nb.settings import Settings
from mlops_nb.store.database import open_database
from mlops_nb.store.registry import Registry
from tests.factories import make_home

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path_factory):
    """Whoever runs the tests may be logged in to W&B, or have settings of their own."""
    for name in [n for n in os.environ if n.startswith(("WANDB_", "MLOPS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("account")))


@pytest.fixture(scope="module")
def toy_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("toy")
    make_home(home)
    return home


@pytest.fixture
def home(tmp_path):
    (tmp_path / "settings.ini").touch()
    return tmp_path


@pytest.fixture
def toy(toy_home, home):
    """Settings of a project whose model `toy` has version 1 of two in production."""
    shutil.copytree(toy_home, home, dirs_exist_ok=True)
    return settings(home, MLOPS_MODEL="toy")


def settings(home: Path, **more: str) -> Settings:
    return Settings.read({"MLOPS_HOME": str(home), **more})


def fake_metadata(monkeypatch, **versions: str | None):
    """Other versions of packages than those that are installed; None: not installed."""
    real = importlib.metadata.version

    def version(name):
        seen = versions.get(name.replace("-", "_"), real(name))
        if seen is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return seen

    monkeypatch.setattr(importlib.metadata, "version", version)


# The machine


def test_python_is_measured_against_settings_ini(home):
    assert doctor.check_python(settings(home)).ok is True
    (home / "settings.ini").write_text("[DEFAULT]\nmin_python = 3.99\n")
    finding = doctor.check_python(settings(home))
    assert (finding.ok, finding.message.endswith("is not >=3.99")) == (False, True)


@pytest.mark.slow
def test_package_out_of_its_bounds_is_named_with_version_bound_and_remedy(home, monkeypatch):
    assert doctor.check_packages(settings(home)).ok is True
    fake_metadata(monkeypatch, pandas="2.2.0", jupytext="1.17.1")
    finding = doctor.check_packages(settings(home))
    assert finding.ok is False
    assert finding.message == "pandas 2.2.0 is not >=3; jupytext 1.17.1 is not <1.17"
    assert finding.advice == "pip install 'pandas>=3' 'jupytext<1.17'"


@pytest.mark.slow
def test_package_of_an_extra_may_be_absent_and_one_that_is_needed_may_not(home, monkeypatch):
    fake_metadata(monkeypatch, flask=None, ploomber=None)
    assert doctor.check_packages(settings(home)).ok is True
    fake_metadata(monkeypatch, skops=None)
    assert doctor.check_packages(settings(home)).message == "skops is not installed"


@pytest.mark.slow
def test_package_that_another_program_brought_is_not_judged(home, monkeypatch):
    fake_metadata(monkeypatch, jupytext="1.17.1", ploomber=None)  # the extra is not installed whole
    assert doctor.check_packages(settings(home)).ok is True
    assert doctor.check_jupyterlab(settings(home)).ok is None
    fake_metadata(monkeypatch, pandas="2.2.0", ploomber=None)
    assert doctor.check_packages(settings(home)).message == "pandas 2.2.0 is not >=3"


def test_plug_in_of_ploomber_that_is_not_enabled(home, monkeypatch):
    assert doctor.check_jupyterlab(settings(home)).ok is True
    disabled = {"ServerApp": {"jpserver_extensions": {"ploomber": False}}}
    (home / "jupyter_server_config.json").write_text(json.dumps(disabled))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(home))
    finding = doctor.check_jupyterlab(settings(home))
    assert (finding.ok, finding.message) == (False, "Ploomber's plug-in is not enabled")


def test_jupytext_that_breaks_the_plug_in_and_machine_without_jupyterlab(home, monkeypatch):
    fake_metadata(monkeypatch, jupytext="1.17.0")
    finding = doctor.check_jupyterlab(settings(home))
    assert (finding.ok, finding.advice) == (False, "pip install 'jupytext<1.17'")
    fake_metadata(monkeypatch, jupyterlab=None)
    assert doctor.check_jupyterlab(settings(home)).ok is None


def test_kernel_of_another_environment(home, monkeypatch, tmp_path):
    assert doctor.check_kernel(settings(home)).ok is True
    kernel = tmp_path / "jupyter/kernels/python3"
    kernel.mkdir(parents=True)
    other = tmp_path / "other/bin/python"
    facts = {"argv": [str(other), "-m", "ipykernel"], "display_name": "x", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(facts))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    finding = doctor.check_kernel(settings(home))
    assert (finding.ok, finding.message) == (False, f"'python3' starts {other}, not {sys.executable}")
    other.parent.mkdir(parents=True)
    other.symlink_to(sys.executable)  # the same binary, other packages
    assert doctor.check_kernel(settings(home)).ok is False


def test_wandb_is_a_problem_only_where_it_is_asked_for_without_a_key(home, monkeypatch):
    assert doctor.check_wandb(settings(home)).ok is None
    monkeypatch.setenv("WANDB_MODE", "online")
    assert doctor.check_wandb(settings(home)).ok is False
    netrc = Path(os.environ["HOME"]) / ".netrc"
    netrc.write_text("machine api.wandb.ai login ada password 0123456789secret\n")
    netrc.chmod(0o600)
    assert doctor.check_wandb(settings(home)).message == "online as ada, project mlops_nb"
    monkeypatch.setenv("WANDB_API_KEY", "0123456789secret")
    finding = doctor.check_wandb(settings(home))
    assert finding.ok is True
    assert "0123456789secret" not in str(finding)
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert doctor.check_wandb(settings(home)).ok is None


# Database and artifact store


def test_database_that_does_not_exist_is_a_note_and_is_not_made(home):
    assert doctor.check_database(settings(home)).ok is None
    assert doctor.check_model(settings(home, MLOPS_MODEL="toy")).advice == "make serve"
    assert not (home / "store").exists()


def test_database_at_another_revision(home):
    there = settings(home)
    engine = open_database(there.database_url)
    assert doctor.check_database(there).ok is True
    for number, result in (("0000", "is at revision 0000, the newest is"), ("9999", "written by a later mlops-nb")):
        with engine.begin() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = :n"), {"n": number})
        finding = doctor.check_database(there)
        assert finding.ok is False
        assert result in finding.message
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == number
    engine.dispose()


@pytest.mark.slow
def test_database_that_is_none_or_does_not_answer_is_a_problem_and_no_password_is_said(home, monkeypatch):
    (home / "store").mkdir()
    (home / "store/mlops.db").write_text("this is no database, however long one looks at it" * 10)
    monkeypatch.setenv("MLOPS_HOME", str(home))
    assert "file is not a database" in by_name()["database"].message
    url = "postgresql+psycopg://ada:hunter22@127.0.0.1:1/mlops?application_name=hunter23"
    monkeypatch.setenv("MLOPS_DATABASE_URL", url)
    finding = by_name()["database"]
    assert finding.ok is False
    assert "hunter2" not in str(finding)
    assert "\n" not in str(finding)


def test_password_is_not_said_where_the_database_answers(database_url, monkeypatch, home):
    open_database(database_url).dispose()
    secret = database_url.replace("postgres@", "postgres:hunter22@")
    finding = doctor.check_database(settings(home, MLOPS_DATABASE_URL=secret))
    assert finding.ok is True
    assert "hunter22" not in finding.message
    assert "search_path" not in finding.message


def test_artifact_store_that_cannot_be_written(home):
    assert doctor.check_artifacts(settings(home)).ok is None
    (home / "store/artifacts").mkdir(parents=True)
    assert doctor.check_artifacts(settings(home)).ok is True
    assert list((home / "store/artifacts").iterdir()) == []
    (home / "file").touch()
    for folder in ("file", "file/below"):
        finding = doctor.check_artifacts(settings(home, MLOPS_ARTIFACTS=str(home / folder)))
        assert finding.ok is False, folder
    assert doctor.check_artifacts(settings(home, MLOPS_ARTIFACTS="s3://bucket?x")).ok is False


def test_read_only_artifact_store(home, monkeypatch):
    def refused(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)  # root writes everywhere
    finding = doctor.check_artifacts(settings(home))
    assert (finding.ok, finding.message) == (False, f"cannot write to {home}: Permission denied")


# The project


def test_hooks_are_those_that_nbdev_installs(home, tmp_path):
    assert doctor.check_hooks(settings(home)).ok is None
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)
    assert doctor.check_hooks(settings(home)).ok is None
    environment = os.environ | {"HOME": str(tmp_path)}  # it writes Jupyter's settings there
    subprocess.run([BIN / "nbdev_install_hooks"], cwd=home, env=environment, check=True, capture_output=True)
    assert doctor.check_hooks(settings(home)).ok is True
    (home / ".gitattributes").unlink()
    (home / ".git/hooks/post-merge").unlink()
    finding = doctor.check_hooks(settings(home))
    assert (finding.ok, finding.message) == (
        None,
        "nbdev's git hooks lack the hook post-merge, the line in .gitattributes",
    )


@pytest.mark.slow
def test_module_that_its_notebook_does_not_say(home):
    assert doctor.check_library(settings(home)).ok is None
    for name in ("nbs", "mlops_nb"):
        shutil.copytree(ROOT / name, home / name)
    shutil.copy2(ROOT / "settings.ini", home)
    assert doctor.check_library(settings(home)).ok is True
    (home / "mlops_nb/model/model_card.py").write_text((home / "mlops_nb/model/model_card.py").read_text() + "x = 1\n")
    (home / "nbs/examples/loans.ipynb").unlink()
    (home / "mlops_nb/by_hand.py").write_text("x = 1\n")
    before = (home / "mlops_nb/model/model_card.py").stat().st_mtime_ns
    finding = doctor.check_library(settings(home))
    assert finding.ok is False
    assert finding.message == (
        "mlops_nb/_modidx.py, mlops_nb/examples/loans.py, mlops_nb/model/model_card.py: not what the notebooks say"
    )
    assert (home / "mlops_nb/model/model_card.py").stat().st_mtime_ns == before
    (home / "nbs/00_errors.ipynb").write_text("{")
    assert doctor.check_library(settings(home)).message.startswith("nbdev_export fails: ")


def test_problems_of_notebooks_are_counted(home):
    import nbformat

    assert doctor.check_notebooks(settings(home)).ok is None
    (home / "nbs").mkdir()
    assert doctor.check_notebooks(settings(home)).ok is True
    cell = nbformat.v4.new_code_cell("nothing_defines_it")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), home / "nbs/x.ipynb")
    finding = doctor.check_notebooks(settings(home))
    assert finding.ok is False
    assert finding.message.startswith("1 problem(s), the first: nbs/x.ipynb, cell 1, line 1")


@pytest.mark.slow
def test_model_in_production_is_loaded_and_verified(toy):
    finding = doctor.check_model(toy)
    assert (finding.ok, finding.message) == (True, "toy version 1 is in production, loaded and verified")


def test_tampered_bundle_is_a_problem(toy):
    golden = Path(toy.artifacts) / "bundles/toy/1/golden.json"
    golden.write_text(golden.read_text() + " ")
    finding = doctor.check_model(toy)
    assert finding.ok is False
    assert "golden.json" in finding.message
    assert finding.advice.startswith("mlops-nb models rollback toy")


def test_model_that_is_registered_but_not_in_production_is_a_problem(toy):
    registry = Registry.open(toy)
    with registry.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM aliases"))
    registry.close()
    assert doctor.check_model(toy).message == "no version of 'toy' is in production"


def test_model_without_a_version_or_a_name_is_a_note(toy, home):
    assert doctor.check_model(settings(home, MLOPS_MODEL="other")).ok is None
    assert doctor.check_model(settings(home)).ok is None


# All of it


def by_name() -> dict:
    return {finding.name: finding for finding in doctor.examine()}


@pytest.mark.slow
def test_command_outside_a_project_says_so_and_is_content(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from mlops_nb.cli.main import main; main()", "doctor"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"note     project     {tmp_path} is in no project" in done.stdout
    assert not {"hooks", "library", "notebooks"} & {line.split()[1] for line in done.stdout.splitlines()}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_command_exits_with_1_where_there_is_a_problem_and_prints_json(toy, home):
    run = partial(CliRunner().invoke, main, env={"MLOPS_MODEL": "toy", "MLOPS_HOME": str(home)})
    found = run(["doctor", "--json"])
    assert (found.exit_code, found.stderr) == (0, "")
    assert {f["name"]: f["ok"] for f in json.loads(found.stdout)}["model"] is True
    (home / "store/artifacts/bundles/toy/1/golden.json").unlink()
    found = run(["doctor", "--json"])
    assert found.exit_code == 1
    wrong = [f for f in json.loads(found.stdout) if f["ok"] is False]
    assert [set(f) for f in wrong] == [{"name", "ok", "message", "advice"}]
    found = run(["doctor"])
    assert found.exit_code == 1
    assert found.stdout.count("PROBLEM  model") == 1


@pytest.mark.slow
def test_setting_that_cannot_be_read_leaves_the_checks_of_the_machine(monkeypatch, home):
    monkeypatch.chdir(home)
    monkeypatch.setenv("MLOPS_PROT", "80")
    found = by_name()
    assert found["settings"].ok is False
    assert "Did you mean 'port'?" in found["settings"].message
    assert found["packages"].ok is True
    assert "database" not in found


def test_check_that_fails_is_a_problem_without_traceback_or_secret(monkeypatch, home):
    def check_wandb(settings):
        raise RuntimeError("cannot reach x with hunter22hunter22\nTraceback: ...")

    monkeypatch.chdir(home)
    monkeypatch.setenv("SOME_TOKEN", "hunter22hunter22")
    monkeypatch.setattr(doctor, "ENVIRONMENT_CHECKS", (check_wandb,))
    assert by_name()["wandb"] == doctor.CheckResult("wandb", False, "RuntimeError: cannot reach x with [secret]")


@pytest.mark.slow
def test_fresh_clone_has_notes_and_no_problem(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--no-local", str(ROOT), str(clone)], check=True)
    changed = ["git", "ls-files", "-m", "-o", "-z", "--exclude-standard", "mlops_nb", "nbs", "settings.ini"]
    listed = subprocess.run(changed, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):  # what is not committed yet
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)
    done = subprocess.run(
        [sys.executable, "-c", "from mlops_nb.cli.main import main; main()", "doctor"],
        cwd=clone, env=os.environ | {"PYTHONPATH": str(clone)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "note     hooks       nbdev's git hooks lack the hook post-merge" in done.stdout
    assert "ok       library" in done.stdout


def link_requirements(site: Path):
    """Give an environment the packages that mlops-nb needs wherever it runs, and no other."""
    from packaging.requirements import Requirement

    waiting, seen = ["mlops-nb"], set()
    while waiting:
        distribution = importlib.metadata.distribution(waiting.pop())
        if distribution.name in seen:
            continue
        seen.add(distribution.name)
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
        for top in {file.parts[0] for file in distribution.files or [] if ".." not in file.parts}:
            if distribution.name != "mlops-nb" and not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))


@pytest.fixture(scope="module")
def plain_environment(tmp_path_factory):
    """A new environment with the wheel, as `pip install` makes it."""
    from mlops_nb.project.framework_wheel import vendor_wheel

    folder = tmp_path_factory.mktemp("plain")
    wheel = vendor_wheel(folder)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    link_requirements(next((folder / "venv").glob("lib/python*/site-packages")))
    return folder / "venv/bin/mlops-nb"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["empty", "project"])
def test_plain_installation_of_the_wheel_has_notes_and_no_problem(plain_environment, tmp_path, place):
    if place == "project":
        for name in ("settings.ini", "env.yaml", "pipeline.yaml"):
            shutil.copy2(ROOT / name, tmp_path)
        shutil.copytree(ROOT / "nbs/pipeline", tmp_path / "nbs/pipeline")
    done = subprocess.run([plain_environment, "doctor"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "PROBLEM" not in done.stdout
    assert "note     kernel      mlops-nb[pipeline] is not installed" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("words", ["serve", "check", "new ../shop"])
def test_command_that_needs_more_packages_says_how_to_get_them(plain_environment, tmp_path, words):
    home = tmp_path / "home"
    (home / "nbs").mkdir(parents=True)
    for name in ("settings.ini", "env.yaml"):
        shutil.copy2(ROOT / name, home)
    (home / "nbs/x.ipynb").write_text("{}")
    command = [plain_environment, *words.split()]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    assert "a package is not installed. All commands need pip install 'mlops-nb[serve,pipeline]'." in done.stderr
    assert not (tmp_path / "shop").exists()
