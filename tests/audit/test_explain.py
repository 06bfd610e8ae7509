"""Explanations: from the id of a prediction to everything behind it, also when part of that is gone."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sklearn.linear_model import LinearRegression

from mlops_nb.audit.explain import explain, plot_contributions, reproduce
from mlops_nb.cli.main import main
from mlops_nb.errors import NotFoundError
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.predictor import Predictor
from mlops_nb.model.signature import Input, Signature
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.serving.service import live_model
from mlops_nb.settings import Settings
from mlops_nb.store.database import writing
from mlops_nb.store.git import GitState
from mlops_nb.store.registry import Registry
from mlops_nb.store.runs import RunStore
from mlops_nb.store.schema import predictions
from serve.app import create_app
from tests.factories import SIGNATURE, logged, package

ROWS = [[41, 2900.5, "own"], [29, None, "rent"], [70, 100.0, "own"]]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [package(folder / str(i), C, SIGNATURE) for i, C in enumerate((1e-4, 5.0))]


@pytest.fixture
def settings(database_url, bundles, tmp_path) -> Settings:
    """A model with three kinds of columns in either database: run, executed notebook, data, version 1 in production."""
    home = {"MLOPS_HOME": str(tmp_path), "MLOPS_DATABASE_URL": database_url, "MLOPS_MODEL": "toy"}
    settings = Settings.read(home)
    run = RunStore(Path(settings.runs)).new()
    run.start("toy", GitState("c" * 40, "main", False, "", ()))
    notebook = tmp_path / "train.ipynb"
    notebook.write_text("{}")
    run.save_notebooks([notebook])
    registry = Registry.open(settings)
    registry.register(bundles[0], run.id)
    registry.register(bundles[1])
    registry.promote("toy", 1)
    registry.close()
    return settings


@pytest.fixture
def request_(settings) -> PredictionRecord:
    """A request of three rows that version 1 answered, with a label for the second."""
    registry = Registry.open(settings)
    predictor = registry.load("toy", 1)
    registry.close()
    made = predictor.predict_rows(ROWS)
    columns = made.prediction.tolist(), made.probability.tolist()
    predictor.close()
    request = PredictionRecord("k", 1.7e9, "toy", 1, "production", 0.4, ["age", "income", "home"], ROWS, *columns)
    add(settings, request, LabelRecord("k-1", "yes", 1.8e9))
    return request


def add(settings: Settings, *entries):
    log = PredictionLog.open(settings)
    log.add(entries)
    log.close()


def tamper(settings: Settings, id: str, **values):
    log = PredictionLog.open(settings)
    with writing(log.engine) as connection:
        assert connection.execute(sa.update(predictions).where(predictions.c.id == id).values(**values)).rowcount == 1
    log.close()


@pytest.fixture
def run(settings, monkeypatch):
    monkeypatch.setenv("MLOPS_HOME", str(settings.home))
    monkeypatch.setenv("MLOPS_DATABASE_URL", settings.database_url)
    return lambda *words: CliRunner().invoke(main, words)


@pytest.mark.slow
def test_prediction_is_reproduced_and_everything_behind_it_is_named(settings, request_):
    found = explain("k-1", settings)
    assert found.reproduced
    assert found.reproduction.difference <= 1e-6
    assert found.logged.inputs == {"age": 29, "income": None, "home": "rent"}
    assert (found.logged.prediction, found.logged.label) == (request_.prediction[1], "yes")
    assert found.version.version == 1
    assert found.version.aliases == ("production",)
    assert found.notebook.read_text() == "{}"
    assert found.run.record["code"]["commit"] == "c" * 40
    assert found.missing == ["The bundle does not say from what data it is."]
    assert found.contributions[0].column == "age", "the one that the label was made of"
    assert found.logged.at == datetime.fromtimestamp(1.7e9, UTC)
    assert found.logged.at.tzinfo is UTC


@pytest.mark.slow
def test_version_that_predicted_is_loaded_and_not_the_one_in_production_now(settings, request_):
    before = explain("k-1", settings)
    registry = Registry.open(settings)
    registry.promote("toy", 2)
    registry.close()
    after = explain("k-1", settings)
    assert after.reproduced
    assert after.reproduction == before.reproduction
    assert after.version.aliases == ()
    tamper(settings, "k-1", version=2)
    assert explain("k-1", settings).reproduction.problem.startswith("a probability differs by")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"prediction": "never"}, "the prediction was 'never', now it is 'no'"),
        ({"probability": [0.5, 0.5]}, "a probability differs by"),
        ({"probability": [1.0]}, "a probability differs by inf"),
        ({"probability": ["much", "little"]}, "a probability differs by inf"),
        ({"inputs": {"age": 30, "income": None, "home": "rent"}}, "a probability differs by"),
        ({"inputs": {"age": 29, "income": None, "home": "castle"}}, "it cannot be computed again"),
        ({"inputs": {"age": 29, "home": "rent"}}, "it cannot be computed again"),
    ],
    ids=["label", "probability", "too few", "no numbers", "input", "input refused", "column gone"],
)
def test_what_was_changed_in_the_log_is_not_reproduced(settings, request_, run, values, problem):
    assert run("explain", "k-1").exit_code == 0
    tamper(settings, "k-1", **values)
    done = run("explain", "k-1")
    assert done.exit_code == 1
    assert "Error: k-1 is NOT reproduced: " + problem in done.stderr
    assert run("explain", "k-0").exit_code == 0


@pytest.mark.slow
def test_number_that_was_changed_is_not_reproduced(tmp_path):
    X = np.random.default_rng(0).normal(size=(50, 2))
    signature = Signature((Input("a"), Input("b")), "regression", "y")
    frame = pd.DataFrame(X, columns=["a", "b"])
    estimator = LinearRegression().fit(frame, 1000 * X[:, 0])
    bundle = write_bundle(tmp_path / "b", "line", estimator, signature, frame, frame, {"evaluation": None})
    predictor = Predictor.load(bundle.path)
    number = predictor.predict_rows([[1.0, 2.0]]).prediction.tolist()[0]
    log = PredictionLog.open(Settings.read({"MLOPS_HOME": str(tmp_path)}))
    log.add([PredictionRecord("k", 1e9, "line", 1, "production", 0.1, ["a", "b"], [[1.0, 2.0]], [number])])
    row = log.get("k-0")
    log.close()
    assert reproduce(predictor, row).problem is None
    assert reproduce(predictor, replace(row, prediction=number * (1 + 1e-6))).problem is None
    for other in (number * (1 + 1e-4), None, "1000", True, float("nan")):
        assert reproduce(predictor, replace(row, prediction=other)).problem.startswith("the prediction differs by")
    predictor.close()


@pytest.mark.slow
def test_bundle_that_is_gone_or_changed_leaves_the_rest(settings, request_, run):
    path = explain("k-0", settings).version.path
    (path / "profile.json").write_text("{}")
    changed = explain("k-0", settings)
    assert "profile.json of toy was changed after it was packaged" in changed.missing[0]
    shutil.rmtree(path)
    gone = explain("k-0", settings)
    assert gone.missing[0].startswith("Version 1 cannot be loaded: There is no bundle at 1")
    assert not gone.reproduced
    assert gone.notebook is not None
    assert gone.metadata["metrics"] == {"accuracy": 0.9}
    done = run("explain", "k-0")
    assert (done.exit_code, "age: 41" in done.stdout) == (1, True), done.output


@pytest.mark.slow
def test_run_that_is_gone_or_never_was_is_no_failure(settings, request_, run):
    shutil.rmtree(settings.runs)
    found = explain("k-0", settings)
    assert found.reproduced
    assert found.notebook is None
    assert any("is not in" in sentence and "executed notebooks are gone" in sentence for sentence in found.missing)
    assert run("explain", "k-0").exit_code == 0
    add(settings, replace(request_, id="two", version=2))
    assert "It was registered without a run, so there is no executed notebook." in explain("two-0", settings).missing


def test_version_that_the_registry_does_not_have(settings, request_):
    add(settings, replace(request_, id="seven", version=7), replace(request_, id="other", name="toys"))
    assert explain("seven-0", settings).missing == ["It is not in the registry: 'toy' has no version 7; it has 1 to 2."]
    found = explain("other-0", settings)
    assert found.version is None
    assert not found.reproduced
    assert found.to_dict()["gates"] == []
    assert "No model 'toys' is registered. Did you mean 'toy'?" in found.missing[0]


def test_columns_that_are_never_logged_are_named(settings, request_):
    rows = [[row[0], row[2]] for row in ROWS]
    add(settings, replace(request_, id="short", columns=["age", "home"], rows=rows))
    found = explain("short-1", settings)
    assert found.missing[0].startswith("Not logged: 'income' (MLOPS_LOG_EXCLUDE).")
    assert not found.reproduced
    assert found.contributions == [], "a column that was not logged is not a missing value"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("k", "'k' is the id of a request; a prediction is one row of it, the first 'k-0'."),
        ("k-3", "'k-3' is no id of a prediction: an id is one of the 'ids' in a response"),
        ("", "'' is no id of a prediction"),
        (f"{'f' * 36}2-2", "its request had 2 rows, the last with the number 1"),
        (f"{'f' * 36}2-1", f"There is no prediction '{'f' * 36}2-1' in the log. It may be on its way there"),
        (f"{1_600_000_000_000:012x}{'0' * 24}1-0", "is not in the log: it is of 2020-09-13, and what is older than 90"),
        (f"{1_600_000_000_000:012x}{'0' * 16}-0", "is not in the log: it is of 2020-09-13, and what is older than 90"),
    ],
)
def test_unknown_id_is_one_line_that_says_what_to_do(settings, request_, run, id, message):
    done = run("explain", id)
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_prediction_of_a_service_is_in_the_spool_first_and_explained_then(settings):
    app = create_app(settings)
    live_model(app).refresh()
    response = app.test_client().post("/predict", json={"features": ROWS, "probability": True}).get_json()
    for id in response["ids"]:
        with pytest.raises(NotFoundError, match=r"is not in the log: it is still in .*start one: mlops-nb serve"):
            explain(id, settings)
    logged(app)
    for i, id in enumerate(response["ids"]):
        found = explain(id, settings)
        assert found.reproduced
        assert found.reproduction.prediction == response["prediction"][i]
        assert datetime.now(UTC) - found.logged.at < timedelta(minutes=5)
    app.stop()


@pytest.mark.slow
def test_json_is_all_of_it_and_the_same_twice(settings, request_, run):
    first, second = run("explain", "k-1", "--json"), run("explain", "k-1", "--json")
    found = json.loads(first.stdout)
    assert first.stdout == second.stdout
    assert found["reproduced"] is True
    assert found["inputs"] == {"age": 29, "income": None, "home": "rent"}
    assert found["label"] == "yes"
    reached = found["mean"] + sum(c["effect"] for c in found["contributions"])
    assert reached == pytest.approx(max(found["probability"]), abs=1e-5)


def test_explanation_shows_itself(settings, request_):
    found = explain("k-1", settings)
    html = found._repr_html_()
    assert "rent" in html
    assert found.verdict in html
    assert "The bundle does not say" in html
    assert len(plot_contributions(found).axes[0].patches) == 3
