"""`mlops-nb upgrade`: what a newer template changed comes into a project, and the project's own edits stay."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlops_nb.cli.main import main
from mlops_nb.errors import SpecError
from mlops_nb.project import upgrade
from mlops_nb.project.extras import add_extras
from mlops_nb.project.framework_wheel import lock_wheel, vendor_wheel
from mlops_nb.project.template import render_template, template_files
from mlops_nb.project.upgrade import plan_upgrade
from mlops_nb.settings import template_folder

NEWER_TARGET = "lab: .venv/complete ## open JupyterLab on the notebooks"


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=ada", "-c", "user.email=ada@example.com")
    done = subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def change_cell(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def make_wheel(place: Path, root: Path) -> Path:
    """A wheel that holds a template, which is all that an upgrade reads of an old one."""
    with zipfile.ZipFile(place, "w") as wheel:
        for path in (root / "locks").glob("*.lock"):
            wheel.write(path, f"mlops_nb/template/locks/{path.name}")
        for name, path in template_files(root).items():
            wheel.write(path, f"mlops_nb/template/{name}")
    return place


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project made from an older template: another word in the Makefile and a notebook, one file more, one fewer."""
    old = tmp_path / "old"
    for name, path in template_files().items():
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, old / name)
    change_cell(old / "Makefile", NEWER_TARGET, "lab: .venv/complete ## open the notebooks")
    change_cell(old / "nbs/pipeline/train.ipynb", "A wide spread", "A large spread")
    packages = (old / "requirements.lock").read_text().rstrip().rpartition("\n")[0]
    (old / "requirements.lock").write_text(f"{packages}\n    # via something\n")  # the last line is another one
    shutil.copytree(template_folder() / "locks", old / "locks")
    change_cell(old / "locks/lightgbm.lock", "lightgbm==4.7.0", "lightgbm==4.6.0")
    (old / "serve/k8s/service.yaml").unlink()
    (old / "serve/k8s/legacy.yaml").write_text("kind: Gone\n")
    folder = tmp_path / "churn"
    render_template(folder, "churn", "churn", old, "0.0.9")
    (folder / "vendor").mkdir()
    wheel = make_wheel(folder / "vendor" / "mlops_nb-0.0.9-py3-none-any.whl", old)
    lock = folder / "requirements.lock"
    lock.write_text(lock_wheel(lock.read_text(), wheel))
    git(folder, "init", "--quiet")
    commit(folder)

    def newer_wheel(place: Path, _find_links: Path) -> Path:
        place.mkdir(parents=True)
        return make_wheel(place / "mlops_nb-0.1.0-py3-none-any.whl", template_folder())

    monkeypatch.setattr(upgrade, "vendor_wheel", newer_wheel)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLOPS_HOME", str(folder))
    return folder


def commit(folder: Path):
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", "as it is")


def statuses(folder: Path) -> dict[str, str]:
    return {change.path: change.status for change in plan_upgrade(folder).changes}


@pytest.mark.slow
def test_untouched_project_becomes_what_the_newer_template_is(project, tmp_path):
    assert statuses(project) == {
        "Makefile": "updated", "nbs/pipeline/train.ipynb": "updated", "settings.ini": "updated",
        "serve/k8s/service.yaml": "added", "serve/k8s/legacy.yaml": "removed", "requirements.lock": "updated",
        "vendor/mlops_nb-0.0.9-py3-none-any.whl": "removed", "vendor/mlops_nb-0.1.0-py3-none-any.whl": "added",
    }  # fmt: skip
    assert CliRunner().invoke(main, ["upgrade", "--yes"]).exit_code == 0
    render_template(tmp_path / "new", "churn", "churn")
    for name in template_files():
        if name != "requirements.lock":
            assert (project / name).read_bytes() == (tmp_path / "new" / name).read_bytes(), name
    assert "mlops-nb==0.1.0" in (project / "requirements.lock").read_text()
    assert "mlops-nb==0.0.9" not in (project / "requirements.lock").read_text()
    commit(project)
    assert plan_upgrade(project).is_empty


@pytest.mark.slow
def test_extra_of_the_model_stays_and_its_packages_become_the_newer_ones(project, tmp_path):
    add_extras(project, ["lightgbm"], tmp_path / "old")
    commit(project)
    assert not plan_upgrade(project).conflicts
    assert CliRunner().invoke(main, ["upgrade", "--yes"]).exit_code == 0
    assert "mlops-nb[serve,pipeline,lightgbm]==0.1.0" in (project / "settings.ini").read_text()
    assert "SERVING := serve,postgres,s3,alerts,lightgbm" in (project / "Makefile").read_text()
    for lock in ("requirements.lock", "serve/requirements.lock"):
        assert re.findall(r"^lightgbm==\S+", (project / lock).read_text(), re.MULTILINE) == ["lightgbm==4.7.0"]


def test_extra_without_a_lock_stays_in_the_requirement(project):
    change_cell(project / "settings.ini", "[serve,pipeline]", "[serve,pipeline,postgres]")
    commit(project)
    assert CliRunner().invoke(main, ["upgrade", "--yes"]).exit_code == 0
    assert "mlops-nb[serve,pipeline,postgres]==0.1.0" in (project / "settings.ini").read_text()


def test_edits_by_hand_stay_and_the_template_s_changes_arrive(project):
    change_cell(project / "Makefile", "clean: ## remove", "own: ## mine\n\techo mine\n\nclean: ## remove")
    change_cell(project / "nbs/pipeline/train.ipynb", "# train", "# train with care")
    change_cell(project / "settings.ini", "    nbval\n", "    nbval\n    hypothesis\n")
    commit(project)
    assert CliRunner().invoke(main, ["upgrade", "--yes"]).exit_code == 0
    makefile, train = (project / "Makefile").read_text(), (project / "nbs/pipeline/train.ipynb").read_text()
    assert "echo mine" in makefile
    assert NEWER_TARGET in makefile
    assert "# train with care" in train
    assert "A wide spread" in train
    settings = (project / "settings.ini").read_text()
    assert "    hypothesis\n" in settings
    assert "mlops-nb[serve,pipeline]==0.1.0" in settings


def test_conflicts_are_left_marked_in_files_that_can_be_opened(project):
    change_cell(project / "Makefile", "## open the notebooks", "## my lab")
    change_cell(project / "nbs/pipeline/train.ipynb", "A large spread", "My spread")
    commit(project)
    done = CliRunner().invoke(main, ["upgrade", "--yes"])
    assert done.exit_code == 1
    assert "Makefile, nbs/pipeline/train.ipynb" in done.stderr
    assert (project / "Makefile").read_text().count("<<<<<<< yours") == 1
    cells = json.loads((project / "nbs/pipeline/train.ipynb").read_text())["cells"]
    (marked,) = [c for c in cells if "<<<<<<< yours" in "".join(c["source"])]
    assert "My spread" in "".join(marked["source"])
    assert "A wide spread" in "".join(marked["source"])


def test_deleted_file_stays_deleted_and_changed_one_is_not_removed(project):
    (project / "nbs/pipeline/train.ipynb").unlink()
    (project / "serve/k8s/legacy.yaml").write_text("kind: Mine\n")
    commit(project)
    found = statuses(project)
    assert (found["nbs/pipeline/train.ipynb"], found["serve/k8s/legacy.yaml"]) == ("kept", "kept")
    plan_upgrade(project).apply()
    assert not (project / "nbs/pipeline/train.ipynb").exists()
    assert (project / "serve/k8s/legacy.yaml").read_text() == "kind: Mine\n"


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_plan_is_shown_and_nothing_is_written_before_a_yes(project, words):
    done = CliRunner().invoke(main, ["upgrade", *words], input="n\n")
    assert "updated   Makefile  +1 -1\n" in done.stdout
    assert done.exit_code == (0 if words else 1)
    assert git(project, "status", "--porcelain") == ""


def test_diff_shows_the_lines_that_change(project):
    done = CliRunner().invoke(main, ["upgrade", "--dry-run", "--diff"])
    assert f"-lab: .venv/complete ## open the notebooks\n+{NEWER_TARGET}\n" in done.stdout
    assert "+++ /dev/null" in done.stdout, "the file that the template lost"
    changes = json.loads(CliRunner().invoke(main, ["upgrade", "--dry-run", "--diff", "--json"]).stdout)["changes"]
    (makefile,) = [change for change in changes if change["path"] == "Makefile"]
    assert (makefile["added"], makefile["removed"], makefile["diff"].splitlines()[0]) == (1, 1, "--- a/Makefile")


def test_error_while_writing_leaves_every_file_as_it_was(project, monkeypatch):
    (project / "Makefile").chmod(0o755)
    commit(project)
    plan, write = plan_upgrade(project), upgrade._write
    failed = []

    def fail_once(path, content, mode):
        if path.name == "settings.ini" and not failed:
            failed.append(path)
            raise OSError(28, "No space left on device")
        write(path, content, mode)

    monkeypatch.setattr(upgrade, "_write", fail_once)
    with pytest.raises(OSError, match="No space left"):
        plan.apply()
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("path", "content"),
    [("Makefile", b"caf\xe9"), ("nbs/pipeline/train.ipynb", b"<<<<<<< HEAD\n{}")],
    ids=["text", "json"],
)
def test_file_that_cannot_be_merged_is_named(project, path, content):
    (project / path).write_bytes(content)
    commit(project)
    done = CliRunner().invoke(main, ["upgrade", "--yes"])
    assert done.exit_code == 1
    assert f"{path} cannot be merged" in done.stderr
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.slow
def test_wheels_of_the_same_sources_are_the_same_wheel(tmp_path):
    first, second = (vendor_wheel(tmp_path / name) for name in ("first", "second"))
    assert upgrade._is_same_wheel(first, second)
    with zipfile.ZipFile(first) as wheel:
        assert "mlops_nb/template/locks/lightgbm.lock" in wheel.namelist()


def test_what_cannot_be_upgraded_is_refused_with_what_to_do(project, tmp_path):
    (project / "Makefile").write_text("mine")
    with pytest.raises(SpecError, match="Makefile is not committed"):
        plan_upgrade(project)
    git(project, "checkout", "--quiet", "Makefile")
    (project / "vendor/mlops_nb-0.0.9-py3-none-any.whl").unlink()
    commit(project)
    with pytest.raises(SpecError, match="vendor/ must have the one wheel"):
        plan_upgrade(project)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(SpecError, match="not in a git repository"):
        plan_upgrade(tmp_path / "elsewhere")


@pytest.mark.slow
def test_project_has_no_service_code_and_a_newer_library_serves_it_without_a_changed_file(project, tmp_path):
    owned = {"__init__.py", "app.py", "gunicorn.conf.py", "wsgi.py", "Dockerfile", "requirements.lock", "k8s"}
    owned |= {"requirements-cuda.lock", "k8s-scale-to-zero"}
    assert {path.name for path in (project / "serve").iterdir()} == owned
    newer = shutil.copytree(template_folder() / "mlops_nb", tmp_path / "newer" / "mlops_nb")
    change_cell(newer / "serving/protocols/health.py", '"/health/live"', '"/health/newer")\n@routes.get("/health/live"')
    code = (
        "from mlops_nb.settings import Settings; from serve.app import create_app\n"
        "settings = Settings.read({'MLOPS_MODEL': 'toy', 'MLOPS_DATABASE_URL': 'sqlite://'})\n"
        "print(create_app(settings).test_client().get('/health/newer').status_code)"
    )
    answers = []
    for library in (template_folder(), newer.parent):
        environment = {**os.environ, "PYTHONPATH": f"{project}:{library}"}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=True)
        answers.append(done.stdout.split()[-1])
    assert answers == ["404", "200"]
    assert git(project, "status", "--porcelain") == ""
