"""The verbs of Ploomber and nbdev that people use in a project work there as they are."""

import itertools
import json
import re
from pathlib import Path

import nbformat
import pytest

from tests.pipeline.conftest import ROOT, copy_project

OPTIONS = ("--env--spec", "toy", "--env--engine", "ploomber-engine")
TASKS = ("ingest", "train", "evaluate", "package", "register")
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *filter(Path.is_file, [ROOT / "CONTRIBUTING.md"])]
# Verbs that a test of this file runs; `build` is run by the fixture
PLOOMBER = {"build", "status", "plot", "report", "task", "interact", "nb"}
NBDEV = {"nbdev_test", "nbdev_clean", "nbdev_export", "nbdev_proc_nbs"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """One built project for all verbs."""
    project = copy_project(tmp_path_factory.mktemp("verbs"))
    project.build()
    return project


def ran(project, *command: str, **more: str) -> str:
    """Run a command that must succeed; return all that it printed."""
    done = project.run(*command, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def sources(path: Path) -> list[str]:
    """Sources of the cells of a notebook."""
    return [c.source for c in nbformat.read(path, 4).cells]


def test_every_verb_that_the_docs_name_is_tested():
    text = "\n".join(p.read_text() for p in PAGES)
    assert {*re.findall(r"(?:`|^ *\$? *|&& )ploomber ([a-z]+)", text, re.MULTILINE)} <= PLOOMBER
    assert {*re.findall(r"\bnbdev_[a-z_]+", text)} <= NBDEV
    tests = Path(__file__).read_text()
    for command in [f'"ploomber", "{verb}"' for verb in PLOOMBER - {"build"}] + [f'"{name}"' for name in NBDEV]:
        assert f"ran(project, {command}" in tests, command


@pytest.mark.slow
def test_status_shows_every_task(project):
    printed = ran(project, "ploomber", "status", *OPTIONS)
    assert all(re.search(rf"^{task} ", printed, re.MULTILINE) for task in TASKS)


@pytest.mark.slow
def test_plot_draws_every_task_and_what_follows_what(project):
    ran(project, "ploomber", "plot", *OPTIONS, "--output", "plot.html")
    page = (project.path / "plot.html").read_text()
    nodes = json.loads(re.search(r"const data = (\[.*\])", page)[1])
    parents = {node["id"]: node.get("parentIds", []) for node in nodes}
    assert all(before in parents[after] for before, after in itertools.pairwise(TASKS))


@pytest.mark.slow
def test_report_holds_every_task(project):
    ran(project, "ploomber", "report", *OPTIONS, "--output", "report.html")
    assert all(task in (project.path / "report.html").read_text() for task in TASKS)


@pytest.mark.slow
def test_task_runs_one_task(project):
    before = project.read("training.json")["seconds"]
    assert "'train' task executed successfully" in ran(project, "ploomber", "task", "train", "--force", *OPTIONS)
    assert project.read("training.json")["seconds"] != before


@pytest.mark.slow
def test_interact_opens_a_shell_with_the_pipeline(project):
    startup = project.path / "startup.py"
    startup.write_text("print('tasks:', *dag)")
    printed = ran(project, "ploomber", "interact", *OPTIONS, PYTHONSTARTUP=str(startup))
    assert f"tasks: {' '.join(TASKS)}" in printed


@pytest.mark.slow
def test_nb_injects_parameters_into_notebooks_and_takes_them_out_again(project):
    path = project.path / "nbs/pipeline/train.ipynb"
    before = sources(path)
    ran(project, "ploomber", "nb", "--inject")
    assert any("upstream = {" in source for source in sources(path))
    ran(project, "ploomber", "nb", "--remove")
    assert sources(path) == before


@pytest.mark.slow
def test_nbdev_test_runs_a_notebook_and_fails_with_it(project):
    ran(project, "nbdev_test", "--path", "nbs/00_errors.ipynb")
    broken = project.path / "nbs/00_broken.ipynb"
    broken.write_text((project.path / "nbs/00_errors.ipynb").read_text().replace("#| default_exp errors", "assert 0"))
    assert project.run("nbdev_test", "--path", "nbs/00_broken.ipynb").returncode != 0
    broken.unlink()


@pytest.mark.slow
def test_nbdev_clean_takes_counts_and_metadata_and_leaves_the_tag_of_parameters(project):
    path = project.path / "nbs/pipeline/train.ipynb"
    clean = (ROOT / "nbs/pipeline/train.ipynb").read_text()
    path.write_text(clean)  # other verbs write into it
    nb = nbformat.read(path, 4)
    cells = [c for c in nb.cells if c.cell_type == "code"]
    assert ["parameters"] in [c.metadata.get("tags") for c in cells]
    for cell in cells:
        cell.execution_count, cell.metadata["collapsed"] = 7, True
    nbformat.write(nb, path)
    ran(project, "nbdev_clean", "--fname", str(path))
    assert path.read_text() == clean


@pytest.mark.slow
def test_nbdev_export_writes_the_module_of_a_changed_notebook(project):
    module = project.path / "mlops_nb/errors.py"
    before = module.read_text()
    module.write_text("")
    ran(project, "nbdev_export", "--path", "nbs/00_errors.ipynb")
    assert module.read_text() == before


@pytest.mark.slow
def test_nbdev_proc_nbs_prepares_notebooks_for_documentation(project):
    quarto = project.path / "bin/quarto"  # where there is none, nbdev would install one, and the project once more
    quarto.parent.mkdir()
    quarto.touch(0o755)
    path = f"{quarto.parent}:{project.environment()['PATH']}"
    ran(project, "nbdev_proc_nbs", "--path", "nbs", "--skip_file_re", "^(?!02_spec)", PATH=path)
    assert "make_estimator" in (project.path / "_proc/02_spec.ipynb").read_text()
