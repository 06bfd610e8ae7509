"""A project of one wheel of the framework, upgraded to a newer wheel by `mlops-nb upgrade` and served by it."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from mlops_nb.settings import template_folder
from tests.factories import free_port, wait_for
from tests.project.test_upgrade import change_cell, commit, git

pytestmark = [pytest.mark.slow, pytest.mark.nightly]


def build_wheel(sources: Path, folder: Path) -> Path:
    """Build the wheel of a source tree, and unpack it as an installed library."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run([*command, "--wheel-dir", folder], cwd=sources, check=True)
    (wheel,) = folder.glob("mlops_nb-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "library")
    (metadata,) = (folder / "library").glob("*.dist-info")
    origin = {"url": wheel.as_uri(), "archive_info": {}}  # as pip writes it
    (metadata / "direct_url.json").write_text(json.dumps(origin))
    return folder / "library"


def run(library: Path, folder: Path, *words: str) -> str:
    """Run `mlops-nb` of a library, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": f"{library}", "MLOPS_HOME": str(folder)}
    command = [sys.executable, "-c", "from mlops_nb.cli.main import main; main()", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def status_of(project: Path, library: Path, path: str) -> int:
    """Serve a project with a library, and return the status of one route."""
    port = free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": f"{project}:{library}",
        "MLOPS_HOME": str(project),
        "MLOPS_MODEL": "churn",
    }
    command = [sys.executable, "-m", "gunicorn", "-c", "serve/gunicorn.conf.py", "--bind", f"127.0.0.1:{port}"]
    process = subprocess.Popen([*command, "serve.wsgi:app"], cwd=project, env=environment, stderr=subprocess.DEVNULL)

    def ask(path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
                return response.status
        except urllib.error.HTTPError as e:
            return e.code
        except OSError:
            return 0

    try:
        wait_for(lambda: ask("/health/live") == 200, 60)
        return ask(path)
    finally:
        process.terminate()
        process.wait(30)


def test_project_made_with_one_wheel_is_upgraded_to_a_newer_one_and_served_by_it(tmp_path):
    made = {".git", ".venv", "store", "products", "build", "dist"}
    ignored = lambda folder, names: made & set(names) if Path(folder) == template_folder() else set()  # noqa: E731
    sources = shutil.copytree(template_folder(), tmp_path / "sources", ignore=ignored)
    older = build_wheel(sources, tmp_path / "older")
    change_cell(sources / "settings.ini", "version = 0.1.0", "version = 0.2.0")
    change_cell(sources / "mlops_nb/serving/protocols/health.py", '"/live"', '"/newer")\n@routes.get("/live"')
    change_cell(sources / "Makefile", "## open JupyterLab on the notebooks", "## open JupyterLab")
    newer = build_wheel(sources, tmp_path / "newer")

    run(older, tmp_path, "new", "churn")
    project = tmp_path / "churn"
    change_cell(project / "Makefile", "clean: ## remove", "own: ## mine\n\techo mine\n\nclean: ## remove")
    if not (project / ".git").is_dir():
        git(project, "init", "--quiet")
    commit(project)
    assert (status_of(project, older, "/health/newer"), status_of(project, newer, "/health/newer")) == (404, 200)
    assert git(project, "status", "--porcelain") == "", "a newer library needs no changed file"

    assert "merged    Makefile" in run(newer, project, "upgrade", "--yes")
    makefile = (project / "Makefile").read_text()
    assert "echo mine" in makefile
    assert "## open JupyterLab\n" in makefile
    assert [path.name.split("-")[1] for path in (project / "vendor").glob("*.whl")] == ["0.2.0"]
    commit(project)
    assert status_of(project, newer, "/health/newer") == 200
    assert "Nothing to do" in run(newer, project, "upgrade")
