"""The rules of a project: its notebooks, its pipeline, and the library that is made of them."""

import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
import pytest
import yaml

from mlops_nb.orchestration.parameters import check_parameters, env_of, notebook_parameters
from mlops_nb.spec import load_spec

ROOT = Path(__file__).parents[1]
CONFIG = ConfigParser(delimiters=["="])
CONFIG.read(ROOT / "settings.ini", encoding="utf-8")
PACKAGE = CONFIG["DEFAULT"]["lib_path"]
NOTEBOOKS = sorted(p for p in ROOT.glob("nbs/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts)
BY_HAND = {"serving", "migrations"}  # folders of modules that no notebook exports
MODULES = [p for p in ROOT.glob(f"{PACKAGE}/**/*.py") if not BY_HAND & {*p.parts} and p.name != "__init__.py"]


PIPELINES = sorted(ROOT.glob("pipeline*.yaml"))
TASKS = [(path, task) for path in PIPELINES for task in yaml.safe_load(path.read_text())["tasks"]]
BY_COMMAND = {"investigate.ipynb"}  # `mlops-nb monitor --investigate` runs it


def test_every_pipeline_notebook_takes_what_it_is_given():
    for path in PIPELINES:
        check_parameters(ROOT, path.name)
    sources = {Path(task["source"]).name for _, task in TASKS}
    assert sources | BY_COMMAND == {p.name for p in (ROOT / "nbs/pipeline").glob("*.ipynb")}
    for _, task in TASKS:
        assert notebook_parameters(ROOT / task["source"]) == {*task["params"], "upstream", "product"}


def test_every_task_tracks_the_code_of_its_own_notebook_unless_it_runs_every_time():
    for _, task in TASKS:
        assert task["static_analysis"] == "strict"
        if task["params"].get("at", {}) != {"dotted_path": "mlops_nb.orchestration.hooks::always_rerun"}:
            assert task["params"]["code"]["notebook"] == task["source"]


@pytest.mark.parametrize("name", ["env.monitor.yaml", "env.score.yaml"])
def test_report_and_batch_inference_are_of_the_default_model(name):
    specs, looked_at = (yaml.safe_load((ROOT / name).read_text()) for name in ("env.yaml", name))
    assert load_spec(specs["spec"]).name == looked_at["model"]


def test_every_default_of_a_pipeline_notebook_is_that_of_env_yaml():
    for path, task in TASKS:
        env = {k: None if v == "none" else v for k, v in yaml.safe_load(env_of(path).read_text()).items()}
        cells = nbformat.read(ROOT / task["source"], 4).cells
        source = next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))
        names = {}
        exec(source, names)
        assert {k: names[k] for k in env if k in names} == {k: v for k, v in env.items() if k in names}


def test_pipeline_notebooks_define_nothing():
    for path in (ROOT / "nbs/pipeline").glob("*.ipynb"):
        code = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
        assert not [line for cell in code for line in cell.splitlines() if re.match(r"\s*(def|class) ", line)], (
            path.name
        )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_committed_without_outputs_and_begins_with_what_it_is(path):
    cells = nbformat.read(path, 4).cells
    assert not any(c.get("outputs") or c.get("execution_count") for c in cells)
    assert cells[0].cell_type == "markdown"
    assert cells[0].source.startswith("# ")
    if "pipeline" not in path.parts:
        lines = [line for line in cells[0].source.splitlines() if line.startswith("> ")]
        assert len(lines) == 1, "one sentence, which nbdev makes the module's docstring"
        assert lines[0][-1] in ".?", "one sentence, which nbdev makes the module's docstring"


# nbval runs them all, every time; who reads about a model looks at its plots, so those are looked at every time, too
PLOTS = [
    pytest.param(p, marks=() if "ModelSpec(" in p.read_text() else pytest.mark.nightly, id=p.stem)
    for p in NOTEBOOKS
    if re.search(r'(?<!\\)"%matplotlib inline|plt\.show', p.read_text()) and "pipeline" not in p.parts
]


@pytest.mark.slow
@pytest.mark.parametrize("path", PLOTS)
def test_plots_of_a_notebook_are_seen_by_its_reader(path):
    from nbclient import NotebookClient

    done = NotebookClient(nbformat.read(path, 4), resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [o.data for c in done.cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    assert any("image/png" in data for data in shown)
    assert not [o.text for c in done.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert not any("<Figure size" in data.get("text/plain", "") for data in shown if "image/png" not in data)


@pytest.mark.slow
def test_library_is_what_nbdev_makes_of_the_notebooks_and_they_are_clean(tmp_path):
    for name in ("nbs", PACKAGE, "settings.ini", "pyproject.toml", "setup.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, tmp_path / name)
    for path in MODULES:
        (tmp_path / path.relative_to(ROOT)).unlink()
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / command], cwd=tmp_path, check=True, capture_output=True)
    for path in [*MODULES, *NOTEBOOKS]:
        made = tmp_path / path.relative_to(ROOT)
        assert made.exists(), f"{path.relative_to(ROOT)} comes from no notebook"
        assert made.read_text() == path.read_text(), f"{path.relative_to(ROOT)}: run make export"


@pytest.mark.parametrize("path", sorted(ROOT.glob("env*.yaml")), ids=lambda p: p.name)
def test_every_parameter_of_the_pipeline_is_explained(path):
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+:", line):
            block = lines[:number][::-1]
            assert any(b.startswith("#") for b in block[:2]), line
