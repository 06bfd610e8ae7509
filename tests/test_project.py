"""The rules of the project itself: who imports whom, what is documented, what is committed."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from mlops_nb.pipeline import check_parameters, notebook_parameters
from mlops_nb.settings import Settings, settings_table

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in ROOT.glob("nbs/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p for p in ROOT.glob("mlops_nb/**/*.py") if "migrations" not in p.parts and p.name != "_modidx.py")


def imports(path: Path) -> set[str]:
    """Absolute names that a module imports at run time: what stands under TYPE_CHECKING is left out."""
    tree = ast.parse(path.read_text())
    typing = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    hidden = {id(inner) for block in typing for inner in ast.walk(block)}
    found, package = set(), [*path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found |= {stem, *(f"{stem}.{alias.name}" for alias in node.names)}
    return found


def own_imports(path: Path) -> set[str]:
    """Modules of mlops_nb that a module imports."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("mlops_nb.")}
    return {name for name in names if (ROOT / "mlops_nb" / f"{name}.py").exists()}


@pytest.mark.parametrize("name", ["spec", "data", "tracking", "settings", "train"])
def test_leaf_modules_import_nothing_of_ours_but_errors(name):
    assert own_imports(ROOT / f"mlops_nb/{name}.py") <= {"errors"}


def test_imports_go_from_later_notebooks_to_earlier_ones():
    numbered = {p.stem.split("_", 1)[1]: int(p.stem.split("_", 1)[0]) for p in ROOT.glob("nbs/[0-9]*.ipynb")}
    backwards = [
        (name, used) for name, number in numbered.items()
        for used in own_imports(ROOT / f"mlops_nb/{name}.py") if numbered[used] >= number
    ]  # fmt: skip
    assert backwards == []


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("serve", set()),
        ("flask", set()),
        ("wandb", {"tracking.py"}),
        ("ploomber", set()),
        ("click", {"cli.py"}),
        ("skl2onnx", {"engine.py"}),
        ("onnxruntime", {"engine.py"}),
        ("pickle", set()),
        ("joblib", set()),
    ],
)
def test_only_the_module_that_owns_a_dependency_imports_it(package, allowed):
    users = {p.name for p in MODULES if any(name.split(".")[0] == package for name in imports(p))}
    assert users <= allowed


def test_flask_is_imported_in_serve_alone():
    assert any("flask" in imports(p) for p in (ROOT / "serve").glob("*.py"))
    assert not any(
        "flask" in imports(p) for p in [*MODULES, *(ROOT / "benchmarks").glob("*.py")] if p.name != "noop.py"
    )


def test_importing_the_library_and_the_service_does_nothing(tmp_path):
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for p in MODULES]
    names += [f"serve.{p.stem}" for p in (ROOT / "serve").glob("*.py") if p.name not in ("wsgi.py", "gunicorn.conf.py")]
    code = f"import importlib, sys\nsys.path.insert(0, {str(ROOT)!r})"
    code += f"\nfor name in {names!r}: importlib.import_module(name)"
    code += "\nassert not {'wandb', 'ploomber', 'matplotlib.pyplot'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_command_line_answers_without_heavy_imports():
    heavy = ("pandas", "sklearn", "numpy", "sqlalchemy", "flask")
    code = f"import sys, mlops_nb.cli; print(sorted(set({heavy}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_pipeline_notebook_takes_what_it_is_given():
    check_parameters(ROOT)
    tasks = yaml.safe_load((ROOT / "pipeline.yaml").read_text())["tasks"]
    assert {Path(t["source"]).name for t in tasks} == {p.name for p in (ROOT / "nbs/pipeline").glob("*.ipynb")}
    for task in tasks:
        assert notebook_parameters(ROOT / task["source"]) == {*task["params"], "upstream", "product"}


def test_every_task_tracks_the_code_of_its_own_notebook():
    for task in yaml.safe_load((ROOT / "pipeline.yaml").read_text())["tasks"]:
        assert task["params"]["code"]["notebook"] == task["source"]
        assert task["static_analysis"] == "strict"


def test_every_default_of_a_pipeline_notebook_is_that_of_env_yaml():
    env = {k: None if v == "none" else v for k, v in yaml.safe_load((ROOT / "env.yaml").read_text()).items()}
    for task in yaml.safe_load((ROOT / "pipeline.yaml").read_text())["tasks"]:
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
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    if "pipeline" not in path.parts:
        lines = [line for line in cells[0].source.splitlines() if line.startswith("> ")]
        assert len(lines) == 1 and lines[0][-1] in ".?", "one sentence, which nbdev makes the module's docstring"


PLOTS = [
    p
    for p in NOTEBOOKS
    if re.search(r'(?<!\\)"%matplotlib inline|plt\.show', p.read_text()) and "pipeline" not in p.parts
]


@pytest.mark.slow
@pytest.mark.parametrize("path", PLOTS, ids=lambda p: p.stem)
def test_plots_of_a_notebook_are_seen_by_its_reader(path):
    from nbclient import NotebookClient

    done = NotebookClient(nbformat.read(path, 4), resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [o.data for c in done.cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    assert any("image/png" in data for data in shown)
    assert not [o.text for c in done.cells if c.cell_type == "code" for o in c.outputs if o.get("name") == "stderr"]
    assert not any("<Figure size" in data.get("text/plain", "") for data in shown if "image/png" not in data)


def test_library_is_what_nbdev_makes_of_the_notebooks_and_they_are_clean(tmp_path):
    for name in ("nbs", "mlops_nb", "settings.ini", "pyproject.toml", "setup.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, tmp_path / name)
    for path in [*(tmp_path / "mlops_nb").glob("*.py"), *(tmp_path / "mlops_nb/examples").glob("*.py")]:
        if path.name != "__init__.py":
            path.unlink()
    for command in ("nbdev_export", "nbdev_clean"):
        subprocess.run([Path(sys.executable).parent / command], cwd=tmp_path, check=True, capture_output=True)
    for path in [*MODULES, *NOTEBOOKS, ROOT / "mlops_nb/_modidx.py"]:
        made = tmp_path / path.relative_to(ROOT)
        assert made.exists(), f"{path.relative_to(ROOT)} comes from no notebook"
        assert made.read_text() == path.read_text(), f"{path.relative_to(ROOT)}: run make export"


def test_lock_satisfies_the_bounds_and_pins_with_hashes():
    from configparser import ConfigParser

    from packaging.requirements import Requirement

    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini")
    lines = (ROOT / "requirements.lock").read_text()
    pinned = dict(re.findall(r"^([a-z0-9._-]+)(?:\[[^\]]*\])?==([^ \\]+)", lines, re.MULTILINE))
    for key in (
        "requirements",
        "serve_requirements",
        "pipeline_requirements",
        "postgres_requirements",
        "dev_requirements",
    ):
        for requirement in map(Requirement, config["DEFAULT"][key].split()):
            assert requirement.specifier.contains(pinned[requirement.name], prereleases=True), str(requirement)
    assert "--hash=sha256:" in lines and "://" not in lines


# What is documented


def test_every_setting_is_documented():
    assert settings_table() in (ROOT / "docs/settings.md").read_text()


def test_every_command_is_documented_as_its_help_says():
    import click

    from mlops_nb.cli import main

    text = (ROOT / "docs/commands.md").read_text()

    def check(command, path):
        with click.Context(command, info_name=path, **main.context_settings) as context:
            assert command.get_help(context) in text, f"{path}: run make docs"
        for name, inner in getattr(command, "commands", {}).items():
            check(inner, f"{path} {name}")

    check(main, "mlops-nb")


def test_every_route_is_documented():
    from serve.app import create_app

    app = create_app(
        Settings.read({"MLOPS_MODEL": "toy", "MLOPS_HOME": "/nonexistent", "MLOPS_DATABASE_URL": "sqlite://"})
    )
    text = (ROOT / "docs/service.md").read_text()
    undocumented = [
        f"{method} {rule}" for rule in app.url_map.iter_rules() if rule.endpoint != "static"
        for method in rule.methods - {"HEAD", "OPTIONS"} if f"`{method} {rule}`" not in text
    ]  # fmt: skip
    assert undocumented == []


def test_every_error_code_is_documented():
    from mlops_nb import errors

    text = (ROOT / "docs/service.md").read_text()
    codes = {e.code for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.InputError)}
    assert [c for c in codes if f"`{c}`" not in text] == []


def test_every_parameter_of_the_pipeline_is_explained():
    lines = (ROOT / "env.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+:", line):
            block = lines[:number][::-1]
            assert any(b.startswith("#") for b in block[:2]), line


def test_readme_names_only_commands_and_files_that_exist():
    text = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_changelog_has_something_unreleased_or_this_version():
    version = json.loads(json.dumps(re.search(r"version = (\S+)", (ROOT / "settings.ini").read_text())[1]))
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_wheel_holds_the_whole_library_and_nothing_else(tmp_path):
    import zipfile

    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / "source" / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    subprocess.run(command, cwd=tmp_path / "source", check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = {n for n in wheel.namelist() if ".dist-info/" not in n}
    assert held == {str(p.relative_to(ROOT)) for p in ROOT.glob("mlops_nb/**/*.py")}
