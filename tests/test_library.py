"""The rules of the framework itself: who imports whom, what is documented, what the wheel holds."""

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from nbdev.showdoc import show_doc

from mlops_nb import __version__
from mlops_nb.project.notebook_cells import parse_cells
from mlops_nb.project.template import template_files
from mlops_nb.settings import Settings, settings_table
from mlops_nb.spec import ModelSpec
from tests.conftest import LONGEST

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in ROOT.glob("nbs/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts)
MODULES = sorted(p for p in ROOT.glob("mlops_nb/**/*.py") if "migrations" not in p.parts and p.name != "_modidx.py")


@cache
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


# The one list of floors: a subpackage imports itself and lower floors. Those on one floor do not import each other
FLOORS = [
    {"base"},
    {"examples"},
    {"data"},
    {"model"},
    {"store"},
    {"monitor", "orchestration"},
    {"audit", "batch", "project", "notebook"},
    {"retrain"},
    {"simulate"},
    {"cli"},
]
SERVING_FLOORS = [{"http"}, {"inference", "server"}, {"telemetry", "protocols"}, {"dashboard"}, {"service"}]
SERVING_USES = {"base", "data", "model", "store", "monitor", "orchestration"}
BASE = {"errors", "settings", "spec", "features", "estimators", "display", "onnx_session"}


def place_of(module: str) -> tuple[str, ...]:
    """Subpackage of a module of ours; of the service its folder, too."""
    parts = module.split(".")[1:]
    if not parts or parts[0] in BASE | {"__version__"}:
        return ("base",)
    return tuple(parts[:2]) if parts[0] == "serving" else (parts[0],)


def may_import(importer: tuple[str, ...], imported: tuple[str, ...]) -> bool:
    """Whether the floors allow an import."""
    if importer == imported:
        return True
    if importer[0] == "serving":
        if imported[0] != "serving":
            return imported[0] in SERVING_USES
        return is_lower(imported[1], importer[1], SERVING_FLOORS)
    return imported[0] != "serving" and is_lower(imported[0], importer[0], FLOORS)


def is_lower(lower: str, higher: str, floors: list[set[str]]) -> bool:
    height = {name: number for number, names in enumerate(floors) for name in names}
    return height[lower] < height[higher]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.slow
def test_imports_go_to_lower_floors_alone():
    known = {module_of(p) for p in MODULES}
    upwards = [
        f"{module_of(path)} imports {name}"
        for path in MODULES
        for name in imports(path)
        if name in known and name != "mlops_nb" and not may_import(place_of(module_of(path)), place_of(name))
    ]
    assert upwards == []


def test_every_subpackage_has_a_floor_and_an_empty_init():
    folders = {p.parent.relative_to(ROOT / "mlops_nb").parts for p in ROOT.glob("mlops_nb/*/**/__init__.py")}
    assert {f[0] for f in folders} - {"serving"} == set().union(*FLOORS) - {"base"}
    assert {f[1] for f in folders if f[0] == "serving" and len(f) > 1} == set().union(*SERVING_FLOORS) - {"service"}
    assert [p for p in ROOT.glob("mlops_nb/*/**/__init__.py") if p.read_text().strip()] == []


def test_modules_import_each_other_in_no_circle():
    known = {module_of(path): path for path in MODULES}
    uses = {name: {used for used in imports(path) if used in known} - {name} for name, path in known.items()}
    TopologicalSorter(uses).prepare()  # raises a CycleError that shows the circle


def test_long_module_says_in_its_first_lines_why():
    long = {module_of(path): text for path in MODULES if (text := path.read_text()).count("\n") > 330}
    assert [name for name, text in long.items() if "300 lines" not in text[:1500]] == []


def test_notebook_is_in_the_folder_of_the_module_that_it_exports():
    for notebook in NOTEBOOKS:
        exported = re.search(r"#\| default_exp ([\w.]+)\"", notebook.read_text())
        if exported is None:
            assert notebook.parent.name == "pipeline" or notebook.name == "index.ipynb"
            continue
        folder, name = notebook.relative_to(ROOT / "nbs").parent, re.sub(r"^\d\d_", "", notebook.stem)
        assert exported[1] == ".".join([*folder.parts, name])


@pytest.mark.slow
def test_notebooks_import_only_names_that_the_library_has():
    missing = []
    for notebook in NOTEBOOKS:
        for node in (node for cell in parse_cells(notebook) for node in ast.walk(cell.tree)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mlops_nb"):
                try:
                    exec(ast.unparse(node), {})
                except ImportError as e:
                    missing.append(f"{notebook.name}: {e}")
    assert missing == []


@pytest.mark.slow
def test_show_doc_has_every_public_function_and_class():
    """Types that are imported under TYPE_CHECKING alone are a NameError where nbdev evaluates the annotations."""
    library = [p for p in MODULES if p.name != "__init__.py" and not {"serving", "notebook"} & {*p.parts}]
    failed = []
    for module in map(import_module, map(module_of, library)):
        public = [getattr(module, name) for name in getattr(module, "__all__", [])]
        for symbol in filter(lambda s: inspect.isclass(s) or inspect.isfunction(s), public):
            try:
                show_doc(symbol)
            except NameError as e:
                failed.append(f"{module.__name__}.{symbol.__name__}: {e}")
    assert failed == []
    assert "make_estimator" in str(show_doc(ModelSpec))


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("serve", set()),
        ("flask", set()),
        ("wandb", {"wandb.py"}),
        ("fcntl", {"file_lock.py"}),
        ("ploomber", {"dask.py"}),
        ("skl2onnx", {"conversion.py"}),
        ("onnxruntime", {"onnx_session.py", "network.py"}),
        ("torch", {"network.py"}),
        ("pickle", set()),
        ("joblib", {"dask.py", "train.py"}),
        ("distributed", {"dask.py"}),
    ],
)
def test_only_the_module_that_owns_a_dependency_imports_it(package, allowed):
    library = [p for p in MODULES if "serving" not in p.parts]
    users = {p.name for p in library if any(name.split(".")[0] == package for name in imports(p))}
    assert users <= allowed


@pytest.mark.parametrize(
    ("package", "folder"), [("click", "cli"), ("flask", "serving"), ("gunicorn", "serving/server")]
)
def test_library_of_a_folder_is_imported_there_alone(package, folder):
    users = {p for p in MODULES if any(name.split(".")[0] == package for name in imports(p))}
    assert users
    assert users <= {*(ROOT / "mlops_nb" / folder).rglob("*.py")}


@pytest.mark.slow
def test_importing_the_library_and_the_service_does_nothing(tmp_path):
    names = [*map(module_of, MODULES), "serve.app"]
    code = f"import importlib, sys\nsys.path.insert(0, {str(ROOT)!r})"
    code += f"\nfor name in {names!r}: importlib.import_module(name)"
    code += "\nassert not {'wandb', 'ploomber', 'matplotlib.pyplot'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_packages_that_are_installed_later_are_needed_by_no_other():
    from importlib.metadata import distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    later = set((ROOT / "requirements.later").read_text().split())
    show = "needed: ; @$(NEEDED) requirements.later requirements.lock"
    command = ["make", "--silent", f"--eval={show}", "needed"]
    needed_lock = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    needed, locked = (
        set(re.findall(r"^([a-z0-9-]+)(?:\[[^\]]*\])?==", text, re.MULTILINE))
        for text in (needed_lock, (ROOT / "requirements.lock").read_text())
    )
    assert later < locked
    assert needed == locked - later
    assert {"flask", "papermill", "wandb", "psycopg", "s3fs", "ruff", "nbdev"} <= needed
    assert {"jupyterlab", "pytest", "playwright", "distributed"} <= later
    for package in distributions():
        if canonicalize_name(package.name) not in needed:
            continue
        for requirement in map(Requirement, package.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert canonicalize_name(requirement.name) not in later, f"{package.name} needs {requirement}"


def test_lock_satisfies_the_bounds_and_pins_with_hashes():
    from configparser import ConfigParser

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

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
            version = pinned[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version, prereleases=True), str(requirement)
    assert "--hash=sha256:" in lines
    assert "://" not in lines
    for lock in sorted((ROOT / "locks").glob("*.lock")):
        optional = lock.read_text()
        found = dict(re.findall(r"^([a-z0-9._-]+)==([^ \\]+)", optional, re.MULTILINE))
        for requirement in map(Requirement, config["DEFAULT"][f"{lock.stem}_requirements"].split()):
            assert requirement.specifier.contains(found[requirement.name]), str(requirement)
            assert requirement.name not in pinned, "the default lock has no optional library"
        pins = [{*re.findall(r"^([a-z0-9._-]+)==([^ \\]+)", text, re.MULTILINE)} for text in (optional, lines)]
        assert {(name, version) for name, version in pins[0] if name in pinned} <= pins[1]
        assert "--hash=sha256:" in optional
        assert "://" not in optional


# What is documented


def test_every_setting_is_documented():
    assert settings_table() in (ROOT / "docs/settings.md").read_text()


def test_every_command_is_documented_as_its_help_says():
    import click

    from mlops_nb.cli.main import main

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


def test_every_public_name_of_the_documentation_exists():
    from importlib import import_module

    text = (ROOT / "docs/public-api.md").read_text()
    names = re.findall(r"`(mlops_nb\.[\w.]+)`", text)
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.rpartition(".")
        if not attribute[0].isupper() and (ROOT / name.replace(".", "/")).with_suffix(".py").exists():
            import_module(name)
        elif not (ROOT / name.replace(".", "/")).is_dir():
            assert hasattr(import_module(module), attribute), name


def test_every_noun_of_the_architecture_is_where_it_is_said_to_be():
    from importlib import import_module

    rows = re.findall(r"^\| (`[^|]+) \| (`[^|]+) \|", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    assert len(rows) > 40
    for nouns, modules in rows:
        held = {n for m in re.findall(r"`([\w.]+)`", modules) for n in vars(import_module(f"mlops_nb.{m}"))}
        assert {*re.findall(r"`(\w+)`", nouns)} <= held, modules


def test_tour_links_every_notebook():
    text = "".join("".join(cell["source"]) for cell in json.loads((ROOT / "nbs/index.ipynb").read_text())["cells"])
    linked = set(re.findall(r"\]\(([^)]+\.ipynb)\)", text))
    assert linked == {str(p.relative_to(ROOT / "nbs")) for p in NOTEBOOKS} - {"index.ipynb"}


def test_architecture_has_a_paragraph_for_every_subpackage_and_the_order_of_the_test():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for names in FLOORS:
        assert all(re.search(rf"^\*\*{name}\*\*", text, re.MULTILINE) for name in names)
    for names in SERVING_FLOORS[:-1]:
        assert all(f"- `serving/{name}`: in, " in text for name in names)
    order = re.search(r"^base < .*$", text, re.MULTILINE)[0]
    assert [set(floor.split(", ")) for floor in order.split(" < ")] == FLOORS


def test_readme_names_only_commands_and_files_that_exist():
    text = (ROOT / "README.md").read_text()
    makefiles = (ROOT / "Makefile").read_text() + (ROOT / "development.mk").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefiles, re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_readme_is_short_and_its_first_request_is_a_row_of_the_default_model():
    import yaml

    from mlops_nb.spec import load_spec

    text = (ROOT / "README.md").read_text()
    assert len(text.split()) < 700
    (body,) = re.findall(r"-d '(\{.*?\})'", text, re.DOTALL)
    spec = load_spec(yaml.safe_load((ROOT / "env.yaml").read_text())["spec"])
    assert len(json.loads(body)["features"][0]) == len(spec.inputs)


def test_changelog_has_something_unreleased_or_this_version():
    version = json.loads(json.dumps(re.search(r"version = (\S+)", (ROOT / "settings.ini").read_text())[1]))
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_service_begins_without_what_takes_long_to_import():
    late = ["scipy.stats", "sklearn", "skops", "onnx", "matplotlib", "IPython", "ploomber", "wandb"]
    code = f"import sys, serve.app; print([name for name in {late} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_files_that_are_to_begin_first_are_files_and_are_not_put_last_by_their_few_tests(pytestconfig):
    assert [name for name in LONGEST if not (ROOT / "tests" / name).is_file()] == []
    assert not pytestconfig.option.loadscopereorder


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
        held = {n for n in wheel.namelist() if ".dist-info/" not in n and not n.endswith("/")}
    library = {str(p.relative_to(ROOT)) for p in ROOT.glob("mlops_nb/**/*") if p.is_file() and p.suffix != ".pyc"}
    jupyter = {name for name in library if name.startswith("mlops_nb/notebook/jupyter/")}
    data = {name.replace("mlops_nb/notebook/jupyter", f"mlops_nb-{__version__}.data/data") for name in jupyter}
    locks = {f"locks/{path.name}" for path in (ROOT / "locks").iterdir()}
    assert held == library - jupyter | data | {f"mlops_nb/template/{name}" for name in {*template_files(), *locks}}
