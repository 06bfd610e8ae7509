"""What another version would say about the rows that production was asked."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from mlops_nb.audit.replay import _metric_names, replay_gates, replay_log, replay_rows
from mlops_nb.cli.main import main
from mlops_nb.errors import DataError, GateError, NotFoundError, RegistryError
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.signature import Input, Signature
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog, PredictionRecord
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry

OLD = Signature((Input("age", "int"), Input("home", "string")), "classification", "repaid", ("no", "yes"))
AGE = Input("age", "int", maximum=60)
NEW = Signature((AGE, Input("home", "string", categories=("own", "rent"))), "classification", "repaid", ("no", "yes"))
SPEC = """
import pandas as pd
import pandera.pandas as pa

from mlops_nb.spec import Gates, ModelSpec

spec = ModelSpec(
    name="toy",
    load="nowhere.csv",
    target="repaid",
    schema=pa.DataFrameSchema({"age": pa.Column(int), "home": pa.Column(str), "repaid": pa.Column(str)}),
    make_estimator=lambda params: None,
    gates=Gates(replay=LIMITS),
    slices={
        "under 30": lambda X: X["age"] < 30,
        "tenants": lambda X: X.home == "rent",
        "in the north": lambda X: X["region"] == "north",
        "nobody": lambda X: X["age"] < 0,
    },
)
"""


def version(folder: Path, limit: float, signature: Signature, spec: str | None):
    """A bundle that says yes to who is older than the limit."""
    ages = np.tile(np.arange(18, 60), 10)
    X = pd.DataFrame({"age": ages, "home": np.where(np.arange(420) < 210, "own", "rent")})
    columns = make_column_transformer(("passthrough", ["age"]), (OneHotEncoder(handle_unknown="ignore"), ["home"]))
    model = make_pipeline(columns, LogisticRegression(C=1e4, max_iter=5000)).fit(X, np.where(ages > limit, "yes", "no"))
    evaluation = {"metrics": {"accuracy": 0.9}, "gates": [], "passed": True}
    metadata = {"params": {"limit": limit}, "code": {"spec": spec} if spec else {}, "evaluation": evaluation}
    return write_bundle(folder, "toy", model, signature, X, X, metadata)


MODULE = "spec_of_replay"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> list:
    """Version 1 says yes from 41 and takes anybody; 2 from 31, takes no age over 60 and knows two kinds of homes."""
    folder = tmp_path_factory.mktemp("bundles")
    return [version(folder / "1", 40, OLD, MODULE), version(folder / "2", 30, NEW, MODULE)]


@pytest.fixture
def settings(bundles, database_url, tmp_path, monkeypatch) -> Settings:
    """Both versions, the first in production."""
    (tmp_path / f"{MODULE}.py").write_text(SPEC.replace("LIMITS", "{}"))
    monkeypatch.syspath_prepend(tmp_path)
    settings = Settings.read({"MLOPS_HOME": str(tmp_path), "MLOPS_DATABASE_URL": database_url})
    registry = Registry.open(settings)
    for bundle in bundles:
        registry.register(bundle)
    registry.promote("toy", 1)
    registry.close()
    yield settings
    sys.modules.pop(MODULE, None)


def limits(settings: Settings, text: str):
    """Give the spec limits for a replay."""
    path = settings.home / f"{MODULE}.py"
    path.write_text(path.read_text().replace("replay={}", f"replay={text}"))
    shutil.rmtree(settings.home / "__pycache__", ignore_errors=True)
    sys.modules.pop(path.stem, None)


def add(settings: Settings, rows: list, key: str = "k", labels=(), columns=("age", "home"), of: int = 1, **more):
    """Put into the log what a service would."""
    predictions = ["yes" if row[0] > 40 else "no" for row in rows]
    log = PredictionLog.open(settings)
    log.add([PredictionRecord(key, 1.7e9, "toy", of, "production", 0.4, columns, rows, predictions, None, **more)])
    log.add([LabelRecord(f"{key}-{i}", label, 1.8e9) for i, label in enumerate(labels) if label is not None])
    log.close()


ROWS = [[20, "own"], [25, "rent"], [33, "rent"], [38, "own"], [50, "own"], [55, "castle"], [70, "own"], [61, "rent"]]
LABELS = ["no", "no", "yes", "no", "perhaps", "yes", "yes", None]


@pytest.mark.slow
def test_changes_refusals_slices_and_metrics_are_counted(settings):
    add(settings, ROWS, labels=LABELS)
    found = replay_log("toy", 2, settings)
    assert (found.rows, found.changed_predictions, found.changes) == (8, 2, {"no -> yes": 2})
    assert found.refused == {
        "column 'age': expected a number of at most 60": 2,
        "column 'home': expected one of ['own', 'rent']": 1,
    }
    assert found.changed_ids == ["k-3", "k-2"]
    assert found.refused_by_champion == 0
    # of the rows that both answer 0 to 3 have a label that there is: before, 33 is wrong; after, 38 is
    assert found.labelled == 4
    assert found.metrics["accuracy"] == {"champion": 0.75, "challenger": 0.75}
    assert "recall" not in found.metrics, "the spec names no positive class of yes and no"
    assert found.shares["changed_predictions"] == 2 / 5
    assert found.shares["refused_rows"] == 3 / 8
    assert found.shares["score_drop"] == 0
    tenants = {"rows": 3, "refused": 1, "changed": 1, "changed_share": 0.5, "labelled": 2}
    tenants |= {"accuracy, champion": 0.5, "accuracy, challenger": 1.0}
    assert found.slices["tenants"] == tenants
    assert found.slices["under 30"]["changed"] == 0
    assert found.slices["nobody"]["rows"] == 0
    assert found.notes == ["Slice 'in the north' cannot be computed from the log: 'region'"]


@pytest.mark.slow
def test_production_and_its_log_stay_as_they_are(settings):
    add(settings, ROWS)
    registry, log = Registry.open(settings), PredictionLog.open(settings)
    before = registry.history("toy"), registry.aliases("toy"), log.count("toy")
    replay_log("toy", 2, settings)
    assert (registry.history("toy"), registry.aliases("toy"), log.count("toy")) == before
    registry.close()
    log.close()


@pytest.mark.slow
def test_last_are_the_newest_and_many_rows_go_in_batches(settings, monkeypatch):
    rows = [[18 + i % 42, "own"] for i in range(1500)]
    rows[700], rows[701], rows[1499] = [90, "own"], [91, "own"], [92, "own"]
    add(settings, [[99, "own"]], key="a")
    add(settings, rows)
    found = replay_log("toy", 2, settings, last=1500)
    assert (found.rows, sum(found.refused.values())) == (1500, 3)
    expected = sum(30 < age <= 40 for age, _ in rows)
    assert found.changed_predictions == expected
    assert len(found.changed_ids) == 20
    assert replay_log("toy", 2, settings, last=1501).refused == {"column 'age': expected a number of at most 60": 4}

    asked = []
    registry = Registry.open(settings)
    predictor = registry.load("toy", 2)
    registry.close()
    predict = predictor.predict_rows
    monkeypatch.setattr(predictor, "predict_rows", lambda rows: asked.append(len(rows)) or predict(rows))
    replayed = replay_rows(predictor, [dict(zip(("age", "home"), row, strict=True)) for row in rows])
    assert len(asked) < 70, "two batches were halved, about twenty times each"
    assert np.flatnonzero(~replayed.accepted).tolist() == [700, 701, 1499]
    assert replayed.predictions.prediction.tolist() == ["yes" if age > 30 else "no" for age, _ in rows if age <= 60]
    predictor.close()


@pytest.mark.slow
def test_version_is_compared_with_production_and_not_with_who_answered(settings):
    registry = Registry.open(settings)
    registry.promote("toy", 2)
    registry.close()
    add(settings, ROWS, of=1)
    found = replay_log("toy", 1, settings)
    assert (found.champion, found.version, found.rows, found.refused_by_champion) == (2, 1, 5, 3)
    assert found.changes == {"yes -> no": 2}
    assert not found.refused


@pytest.mark.slow
def test_column_that_was_never_logged_is_not_a_missing_value(settings):
    add(settings, [[20], [50]], key="short", columns=("age",))
    with pytest.raises(DataError, match=r"2 of 2 rows cannot be replayed: 'home' was not logged \(MLOPS_LOG_EXCLUDE\)"):
        replay_log("toy", 2, settings)
    add(settings, ROWS)
    found = replay_log("toy", 2, settings)
    assert found.rows == 8
    assert "2 of 10 rows cannot be replayed: 'home' was not logged." in found.notes


@pytest.mark.slow
def test_version_that_refuses_everything_and_one_that_production_refuses(settings):
    add(settings, [[70, "own"], [80, "rent"]], labels=["yes", "no"])
    found = replay_log("toy", 2, settings)
    assert (found.changed_predictions, sum(found.refused.values()), found.labelled, found.metrics) == (0, 2, 0, {})
    assert found.shares["refused_rows"] == 1
    assert found.to_dict()["shares"]["changed_predictions"] is None
    limited = replace(found, limits={"max_changed_predictions": 1, "max_latency_ratio": 9, "max_score_drop": 1})
    assert [gate.passed for gate in limited.gates] == [False, False, False], "nothing is known"
    registry = Registry.open(settings)
    registry.promote("toy", 2)
    registry.close()
    with pytest.raises(DataError, match="Production refuses all 2 logged rows: column 'age'"):
        replay_log("toy", 1, settings)


@pytest.mark.slow
def test_latency_of_both_is_measured(settings):
    add(settings, ROWS)
    found = replay_log("toy", 2, settings)
    assert 0 < found.latency_ms["champion"] < 1000
    assert found.shares["latency_ratio"] == found.latency_ms["challenger"] / found.latency_ms["champion"]


@pytest.mark.slow
def test_regression_changes_where_a_number_moves_by_a_tenth_of_the_spread(tmp_path):
    settings = Settings.read({"MLOPS_HOME": str(tmp_path)})
    X = pd.DataFrame({"x": np.arange(100.0)})
    registry = Registry.open(settings)
    for slope in (1.0, 1.1):
        model = LinearRegression().fit(X, slope * X["x"])
        metadata = {"params": {"slope": slope}, "evaluation": {"metrics": {"r2": 1.0}, "gates": [], "passed": True}}
        signature = Signature((Input("x"),), "regression", "y")
        registry.register(write_bundle(tmp_path / "b", "line", model, signature, X, X, metadata))
    registry.promote("line", 1)
    registry.close()
    log = PredictionLog.open(settings)
    rows = X.to_numpy().tolist()
    log.add([PredictionRecord("k", 1e9, "line", 1, "production", 0.1, ["x"], rows, X["x"].tolist())])
    log.add([LabelRecord(f"k-{i}", label, 1e9) for i, label in enumerate([0.0, 1, 2.0, "three", None, True])])
    log.close()
    found = replay_log("line", 2, settings)
    assert found.change_threshold == pytest.approx(np.std(np.arange(100)) / 10, rel=1e-3)
    assert found.changed_predictions == sum(0.1 * x > found.change_threshold for x in range(100))
    assert found.changes == {}
    assert found.labelled == 3
    assert found.metrics["r2"]["champion"] == pytest.approx(1, abs=1e-6)
    assert found.metrics["r2"]["challenger"] == pytest.approx(1 - 0.05 / 2, abs=1e-4)
    assert found.notes == ["There is no spec, and so no slices."]


@pytest.fixture
def run(settings, monkeypatch):
    monkeypatch.setenv("MLOPS_HOME", str(settings.home))
    monkeypatch.setenv("MLOPS_DATABASE_URL", settings.database_url)
    return lambda *words: CliRunner().invoke(main, ("models", "replay", *words))


@pytest.mark.slow
def test_command_prints_tables_and_json(settings, run):
    add(settings, ROWS, labels=LABELS)
    done = run("toy", "2")
    assert done.exit_code == 0, done.output
    assert "no -> yes: 2" in done.stdout
    assert "column 'age': expected a number of at most 60: 2" in done.stdout
    assert "for mlops-nb explain: k-3, k-2\n" in done.stdout
    assert "Slice 'in the north'" in done.stderr
    assert "castle" not in done.output, "a value belongs to a client"
    found = json.loads(run("toy", "2", "--last", "4", "--json").stdout)
    assert (found["rows"], found["passed"], found["labelled"]) == (4, True, 0)
    assert found["shares"]["refused_rows"] == 0.75


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("toys", "2"), 1, "Error: No model 'toys' is registered. Did you mean 'toy'?\n"),
        (("toy", "3"), 1, "Error: 'toy' has no version 3; it has 1 to 2.\n"),
        (("toy", "stagin"), 1, "Error: 'stagin' is neither a version number nor an alias."),
        (("toy", "1"), 1, "Error: Version 1 of 'toy' is in production already: replay another.\n"),
        (("toy", "2"), 1, "Error: The log has no predictions of 'toy' to replay."),
        (("toy", "2", "--last", "0"), 2, "Error: Invalid value for '--last': 0 is not in the range x>=1.\n"),
    ],
)
def test_each_mistake_has_one_clear_error(run, words, code, message):
    done = run(*words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr


@pytest.mark.slow
def test_function_refuses_less_than_one_row_and_a_model_that_never_was_in_production(settings):
    with pytest.raises(DataError, match="A replay needs at least 1 row, got last=0"):
        replay_log("toy", 2, settings, last=0)
    X = pd.DataFrame({"x": np.arange(30.0)})
    signature, metadata = Signature((Input("x"),), "regression", "y"), {"evaluation": None}
    registry = Registry.open(settings)
    registry.register(
        write_bundle(settings.home / "o", "other", LinearRegression().fit(X, X["x"]), signature, X, X, metadata)
    )
    registry.close()
    with pytest.raises(RegistryError, match="'production' is neither a version number nor an alias"):
        replay_log("other", 1, settings)


@pytest.mark.slow
def test_limits_of_the_spec_decide_the_exit_code(settings, run):
    add(settings, ROWS)
    limits(settings, '{"max_changed_predictions": 0.4, "max_refused_rows": 0.375}')
    assert run("toy", "2").exit_code == 0
    limits_now = settings.home / f"{MODULE}.py"
    limits_now.write_text(limits_now.read_text().replace("0.375", "0.37"))
    shutil.rmtree(settings.home / "__pycache__", ignore_errors=True)
    sys.modules.pop(limits_now.stem)
    done = run("toy", "2")
    assert done.exit_code == 1
    assert "Error: version 2 exceeds the replay limits of its spec: " in done.stderr
    assert "FAILED: replay refused_rows 0.375, required at most 0.37" in done.stderr


def gates_of(settings: Settings, number: int) -> list[tuple[str, bool]]:
    registry = Registry.open(settings)
    found = replay_gates(registry, registry.get("toy", number), settings=settings)
    registry.close()
    return [(gate.metric, gate.passed) for gate in found]


@pytest.mark.slow
def test_without_limits_nothing_is_replayed(settings):
    add(settings, ROWS)
    shutil.rmtree(Path(settings.artifacts) / "bundles")
    assert gates_of(settings, 2) == []


@pytest.mark.slow
def test_gate_without_logged_rows_is_not_met(settings):
    limits(settings, '{"max_changed_predictions": 1, "max_score_drop": 1}')
    assert gates_of(settings, 2) == [("changed_predictions", False), ("score_drop", False)]
    add(settings, ROWS)
    assert gates_of(settings, 2) == [("changed_predictions", True), ("score_drop", False)], "no label has come"
    add(settings, ROWS, key="l", labels=LABELS)
    assert gates_of(settings, 2) == [("changed_predictions", True), ("score_drop", True)]


@pytest.mark.slow
def test_gate_does_not_apply_to_the_first_version_or_to_the_one_in_production(settings):
    limits(settings, '{"max_changed_predictions": 0}')
    assert gates_of(settings, 1) == []
    registry = Registry.open(settings)
    assert replay_gates(registry, registry.get("toy", 2), "canary", settings) == []
    registry.close()


@pytest.mark.slow
def test_gate_of_an_old_manifest_is_read_under_its_new_name(settings):
    old = {"gate": "rehearsal", "metric": "loss", "value": 0.2, "required": 0.1, "passed": False}
    X = pd.DataFrame({"x": np.arange(30.0)})
    evaluation = {"metrics": {"r2": 1.0}, "gates": [old], "passed": False}
    model, signature = LinearRegression().fit(X, X["x"]), Signature((Input("x"),), "regression", "y")
    registry = Registry.open(settings)
    registry.register(write_bundle(settings.home / "o", "old", model, signature, X, X, {"evaluation": evaluation}))
    with pytest.raises(GateError, match=r"replay score_drop 0\.2, required at most 0\.1"):
        registry.promote("old", 1)
    registry.close()


@pytest.mark.slow
def test_report_shows_itself(settings):
    add(settings, ROWS, labels=LABELS)
    html = replace(replay_log("toy", 2, settings), limits={"max_changed_predictions": 0.1})._repr_html_()
    for part in ("no -&gt; yes", "tenants", "accuracy", "expected a number of at most 60", "in the north", "at most"):
        assert part in html


@pytest.mark.slow
def test_nothing_logged_is_not_found(settings):
    with pytest.raises(NotFoundError, match="The log has no predictions of 'toy'"):
        replay_log("toy", 2, settings)


def test_metrics_of_an_interval_are_of_a_release_alone():
    evaluation = {"metrics": {"r2": 0.9, "interval_coverage": 0.9, "interval_width": 3.0}}
    bundle = SimpleNamespace(manifest={"evaluation": evaluation})
    assert _metric_names(None, SimpleNamespace(signature=None, bundle=bundle)) == ["r2"]
