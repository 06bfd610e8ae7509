"""A copy of the project, and a toy model in it, to build and to break."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

TOY = """
import pandas as pd
import pandera.pandas as pa
from sklearn.linear_model import LogisticRegression

from mlops_nb.spec import Gates, ModelSpec


def load():
    return pd.DataFrame({"x": range(100), "y": [int(i > 45) for i in range(100)]}).astype({"x": float})


spec = ModelSpec(
    name="toy",
    load=load,
    target="y",
    schema=pa.DataFrameSchema({"x": pa.Column(float, pa.Check.in_range(0, 1000)), "y": pa.Column(int)}, coerce=True),
    make_estimator=lambda params: LogisticRegression(**params),
    gates=Gates(minimum={"accuracy": 0.8}),
)
"""


def run_command(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess:
    """Run a command to its end; its output is text."""
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


class Project:
    """A project folder with the commands that a person runs in it."""

    run_command = staticmethod(run_command)

    def __init__(self, path: Path):
        self.path = path
        self.products = path / "products" / "toy"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "WANDB_"))}
        own = {"PYTHONPATH": str(self.path), "PATH": f"{BIN}:{os.environ['PATH']}", "PLOOMBER_STATS_ENABLED": "false"}
        # matplotlib and others write caches where the home folder is; W&B is on only where a test looks at it
        return kept | own | {"WANDB_MODE": "disabled", "MPLBACKEND": "agg"} | more

    def run(self, *command: str, **more: str) -> subprocess.CompletedProcess:
        return self.run_command(command, self.path, self.environment(**more))

    def build(self, *options: str, spec: str = "toy", engine: str = "ploomber-engine", **more: str):
        """Run `ploomber build`; answer with the names of the tasks that ran."""
        done = self.run("ploomber", "build", "--env--spec", spec, "--env--engine", engine, *options, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return [
            line.split()[0] for line in done.stdout.splitlines() if len(line.split()) == 4 and "True" in line.split()
        ]

    def fail(self, *options: str, **more: str) -> str:
        """Run a `ploomber build` that must fail; answer with all it printed."""
        done = self.run("ploomber", "build", "--env--spec", "toy", "--env--engine", "ploomber-engine", *options, **more)
        assert done.returncode != 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def json(self, *command: str):
        done = self.run("mlops-nb", *command, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def read(self, product: str, spec: str = "toy") -> dict:
        return json.loads((self.path / "products" / spec / product).read_text())

    def replace(self, file: str, old: str, new: str):
        path = self.path / file
        text = path.read_text()
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1))


def copy_project(path: Path) -> Project:
    """The files of the project that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split("\0")[:-1]:
        if not name.startswith(("tests/", "benchmarks/", "docs/")) and (ROOT / name).is_file():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, path / name)
    (path / "toy.py").write_text(TOY)
    return Project(path)


PACKAGE = re.search(r"^lib_path = (\w+)", (ROOT / "settings.ini").read_text(), re.MULTILINE)[1]
MODELS = [
    ".".join(p.relative_to(ROOT).with_suffix("").parts)
    for p in sorted(ROOT.glob(f"{PACKAGE}/**/*.py"))
    if re.search(r"^spec = ModelSpec\(", p.read_text(), re.MULTILINE)
]


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Project:
    """One copy, in which all models of the project are built."""
    return copy_project(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session", params=MODELS)
def model(request, models) -> str:
    """A model of the project, built: the module of its spec."""
    models.build(spec=request.param)
    return request.param


@pytest.fixture
def project(tmp_path) -> Project:
    """A fresh copy in which nothing was built."""
    return copy_project(tmp_path)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory) -> Project:
    """A copy in which the toy was built; nobody changes it."""
    project = copy_project(tmp_path_factory.mktemp("built"))
    assert project.build() == ["ingest", "train", "evaluate", "package", "register"]
    return project


@pytest.fixture
def built(built_once, tmp_path) -> Project:
    """A copy of the built project, to go on from.

    Products are tied to their folder (their paths are parameters), so the copy takes the place of the original.
    """
    shutil.copytree(built_once.path, tmp_path / "kept")
    yield built_once
    for entry in built_once.path.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copytree(tmp_path / "kept", built_once.path, dirs_exist_ok=True)
