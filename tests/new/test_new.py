"""`mlops-nb new`: five unseen tables become projects that build, pass their checks and answer a row of the table."""

import hashlib
import json
import re
import subprocess
import sys
import sysconfig
from http.client import HTTPConnection
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from mlops_nb.data.tables import read_table
from tests.factories import free_port, wait_for
from tests.new.tables import TABLES, Given
from tests.pipeline.conftest import BIN, Project

pytestmark = pytest.mark.slow


def hide_boosters(folder: Path, kept: tuple[str, ...] = ()):
    """Let commands in a folder find none of these libraries: their trials take longest."""
    for library in {"lightgbm", "xgboost", "catboost"} - {*kept}:
        (folder / f"{library}.py").write_text("raise ImportError('hidden by a test')\n")


class Made(Project):
    """A project that `mlops-nb new` made of a table."""

    def __init__(self, folder: Path, name: str, given: Given, boosters: tuple[str, ...] = ()):
        super().__init__(folder)
        hide_boosters(folder, boosters)
        self.given, self.name, self.spec = given, name, f"{name}.model"
        words = ("--data", given.data, "--target", given.target, *given.options)
        done = self.run("mlops-nb", "new", name, *words)
        assert done.returncode == 0, done.stderr
        self.output, self.errors, self.table = done.stdout, done.stderr, self._read()
        self.path = folder / name

    def _read(self) -> pd.DataFrame:
        if self.given.data.startswith("sqlite:"):
            return read_table(f"sqlite:///{self.path / 'bank.db'}", self.given.options[1])
        return read_table(self.path / self.given.data)

    def rows(self, n: int) -> list[dict]:
        """Rows as they are in the table, ids, target and all."""
        known = self.table.dropna(subset=[self.given.target])
        return json.loads(known.tail(n).to_json(orient="records", date_format="iso"))

    def exported(self) -> str:
        return (self.path / self.name / "model.py").read_text()


# The others are of kinds that test_forms.py builds, too
MARKS = dict.fromkeys(("rentals", "reviews", "wines"), pytest.mark.nightly) | {"payments": pytest.mark.soak}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=MARKS.get(name, ())) for name in TABLES],
)
def made(request, tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp(request.param)
    project = Made(folder, f"{request.param}_model", TABLES[request.param](folder))
    project.build(spec=project.spec)
    return project


def test_project_passes_its_own_fast_checks(made):
    for command in (["ruff", "check", "."], ["mlops-nb", "check"], ["pytest", "tests", "-q", "-m", "not slow"]):
        done = made.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def test_notebook_runs_from_top_to_bottom_and_shows_every_column(made):
    notebook = made.path / "nbs" / f"{made.name}.ipynb"
    done = made.run("jupyter", "execute", str(notebook), f"--output={made.name}-executed.ipynb")
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(notebook.with_name(f"{made.name}-executed.ipynb"), 4).cells
    outputs = [o for c in cells if c.cell_type == "code" for o in c.outputs]
    assert len([o for o in outputs if "image/png" in o.get("data", {})]) == 2, "the target, and the columns"
    assert not [o.text for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert all(f"| `{name}` |" in prose for name in made.table.columns if name != made.given.target)
    notebook.with_name(f"{made.name}-executed.ipynb").unlink()


def test_service_answers_rows_of_the_table_as_they_are(made):
    port = free_port()
    environment = made.environment(MLOPS_PORT=str(port), MLOPS_WORKERS="1")
    command = [BIN / "mlops-nb", "serve", "--spec", made.spec]
    with (made.path.parent / "log").open("w") as log:
        service = subprocess.Popen(command, cwd=made.path, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: _get(port, "/health/ready"), 60)
        rows = made.rows(20)
        body = [_post(port, {"features": [row]}) for row in rows]
        assert [status for status, _ in body] == [200] * len(rows), body
        assert _post(port, {"features": rows})[1]["prediction"] == pytest.approx([a["prediction"][0] for _, a in body])
        inputs = _get_json(port, "/model")["signature"]["inputs"]
        optional = [i["name"] for i in inputs if not i["required"]]
        assert len(optional) >= len(inputs) - 1, "all but the column that splits by time"
        assert _post(port, {"features": [rows[0] | {name: None} for name in optional]})[0] == 200
    finally:
        service.terminate()
        service.wait(timeout=40)


def _get(port: int, path: str) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _get_json(port: int, path: str) -> dict:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    content = json.loads(connection.getresponse().read())
    connection.close()
    return content


def _post(port: int, body: dict) -> tuple[int, dict]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/predict", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def test_model_is_in_production_and_its_library_is_short(made):
    assert made.read("registration.json", made.spec)["promoted"]
    assert [(m["name"], m["production"]) for m in made.json("models", "list")] == [(made.name, 1)]
    assert len(made.exported().splitlines()) < 150
    log = subprocess.run(["git", "log", "--oneline"], cwd=made.path, capture_output=True, text=True, check=True).stdout
    status = subprocess.run(["git", "status", "--short"], cwd=made.path, capture_output=True, text=True, check=True)
    assert f"Begin {made.name} with mlops-nb new" in log
    assert status.stdout == ""
    assert (made.path / ".git/hooks/pre-commit").stat().st_mode & 0o100
    assert "nbdev-merge" in (made.path / ".gitconfig").read_text()


EXPECTED = {
    "claims_model": [
        "Left out: Unnamed: 0 (it numbers the rows)",
        "Left out: Vertrag (nearly every row has a value of its own: an id)",
        "Left out: Währung (it is 'EUR' in every row)",
        "Left out: Auszahlung (alone it predicts 'Schaden' (almost) perfectly",
        "Left out: gemeldet_am (alone it predicts 'Schaden' (almost) perfectly",
        "Schaden: classification with a",
        ", roc_auc",
    ],
    "reviews_model": ["opinion: classification with a linear model, balanced_accuracy"],
    "rentals_model": ["rented: regression with a linear model, r2"],
    "wines_model": ["grape: classification with a linear model, accuracy", "497 rows"],
    "payments_model": ["fraud: classification", "average_precision", "Left out: payment_id (it numbers the rows)"],
}


def test_decisions_are_those_that_a_person_would_take(made):
    assert [words for words in EXPECTED[made.name] if words not in made.output] == [], made.output


IN_THE_SPEC = {
    "claims_model": [
        r"'format': '%d\.%m\.%Y'|\"format\": \"%d\.%m\.%Y\"",
        "DateParts",
        "nullable=True",
        r'"ignore", min_frequency=10|OutOfFold\(',  # by what is tried
    ],
    "reviews_model": [r"FillText\(\), TfidfVectorizer", '"body"', r"isin\(\[\"good\", \"neutral\", \"bad\"\]\)"],
    "rentals_model": ['time="at"', "time_is_input=True", '"hour"', r'"holiday": pa.Column\("boolean", nullable=True'],
    "wines_model": [r"isin\(\[\"Tannat\"\]\)", "SimpleImputer"],
    "payments_model": ["SELECT \\* FROM payments", 'scorer="average_precision"', r'"fraud": pa.Column\(int'],
}


def test_spec_says_what_the_table_needs(made):
    assert [words for words in IN_THE_SPEC[made.name] if not re.search(words, made.exported())] == [], made.exported()


@pytest.mark.soak
def test_wheel_in_a_clean_environment_makes_a_project_that_builds(tmp_path):
    """The environment has the framework's wheel and, so that nothing is downloaded, the other packages of this one."""
    from mlops_nb.project.framework_wheel import vendor_wheel

    hide_boosters(tmp_path)
    wheel = vendor_wheel(tmp_path)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    python = tmp_path / "clean/bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    site = next((tmp_path / "clean").glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    project = Project(tmp_path)
    environment = {k: v for k, v in project.environment().items() if k != "PYTHONPATH"}

    def run(*command):
        done = subprocess.run(
            [python, *command], cwd=project.path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert str(site) in run("-c", "import mlops_nb; print(mlops_nb.__file__)")
    assert "cd fresh && make serve" in run("-c", "from mlops_nb.cli.main import main; main()", "new", "fresh")
    project.path = tmp_path / "fresh"
    ploomber = "import sys; from ploomber_cli.cli import cmd_router; sys.argv[0] = 'ploomber'; cmd_router()"
    run("-c", ploomber, "build", "--env--engine", "ploomber-engine")
    assert project.read("registration.json", "fresh.model")["promoted"]
    made = [p.name for p in project.path.glob("vendor/*")]
    assert made == [wheel.name]
    lock = (project.path / "requirements.lock").read_text()
    assert hashlib.sha256((project.path / "vendor" / wheel.name).read_bytes()).hexdigest() in lock
    tracked = subprocess.run(["git", "ls-files"], cwd=project.path, capture_output=True, text=True, check=True).stdout
    expected = {"data/customers.csv", "serve/app.py", ".ci/run", "nbs/fresh.ipynb", "fresh/model.py"}
    assert expected <= set(tracked.split())
