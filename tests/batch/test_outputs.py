"""A model of several outputs in batch jobs, explanations, tables of production and the dashboard."""

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from mlops_nb.audit.compare import compare_predictions
from mlops_nb.audit.explain import explain
from mlops_nb.audit.investigate import errors_of
from mlops_nb.audit.replay import replay_log
from mlops_nb.batch.jobs import predict_batch
from mlops_nb.batch.requests import BatchRequest
from mlops_nb.errors import BatchError
from mlops_nb.model.signature import column_of, join_outputs
from mlops_nb.monitor.prediction_log import LabelRecord, PredictionLog
from mlops_nb.monitor.time_buckets import TimeBuckets
from mlops_nb.monitor.timeseries import prediction_series, quality
from mlops_nb.notebook.production import logged_predictions, predict_labelled, wrong_predictions
from mlops_nb.retrain.dataset import labelled_rows
from mlops_nb.settings import Settings
from mlops_nb.store.registry import Registry
from tests.factories import served, several_outputs

NAMES = ("late", "a of b", 'é "x"')


@pytest.fixture(scope="module", params=["labels", "numbers"])
def model(request, tmp_path_factory):
    home = tmp_path_factory.mktemp(request.param)
    (home / "settings.ini").touch()
    kinds = (bool, str, int) if request.param == "labels" else (float,) * 3
    spec = several_outputs(NAMES, kinds)
    metrics = (spec.scorer, *(f"{spec.scorer} of {name}" for name in NAMES))
    _, X, predictor = served(spec, home)
    settings = Settings.read({"MLOPS_HOME": str(home), "MLOPS_MODEL": "several"})
    with closing(Registry.open(settings)) as registry:
        registry.register(predictor.bundle)
        registry.promote("several", 1)
        registry.register(served(several_outputs(NAMES, kinds, n=200), home / "second", 0, metrics)[2].bundle)
    X.to_csv(home / "rows.csv", index=False)
    return home, settings, spec, X, predictor


@pytest.fixture(scope="module")
def logged(model):
    """The log after a batch job that logged its rows, with the labels of the first 200."""
    home, settings, spec, *_ = model
    request = BatchRequest("several", str(home / "rows.csv"), str(home / "logged.csv"), log=True)
    predict_batch(request, settings=settings)
    truth = spec.load()[spec.target].astype(object).to_dict("records")
    with closing(PredictionLog.open(settings)) as log:
        ids = sorted(log.read("several", roles=["batch"]).predictions.index, key=lambda id: int(id.rpartition("-")[2]))
        at = datetime.now(UTC).timestamp()
        log.add([LabelRecord(id, truth[row], at) for row, id in enumerate(ids[:200])])
        with log.engine.begin() as connection:  # as if clients had asked
            connection.execute(sa.text("UPDATE predictions SET role = 'production'"))
        yield log


@pytest.mark.slow
@pytest.mark.parametrize("target", ["file", "table"])
def test_a_batch_job_writes_a_column_an_output(model, target):
    home, settings, _, X, predictor = model
    expected = predictor.predict_frame(X)
    url = f"sqlite:///{home / 'out.db'}"
    where = {"output": str(home / "out.csv")} if target == "file" else {"output": url, "table": "found"}
    request = BatchRequest("several", str(home / "rows.csv"), probability=predictor.signature.probability, **where)
    job = predict_batch(request, settings=settings)
    assert (job.rows, job.rejected) == (300, 0)
    if target == "file":
        table = pd.read_csv(home / "out.csv")
    else:
        engine = sa.create_engine(url)
        table = pd.read_sql("SELECT * FROM found", engine)
        engine.dispose()
    for name, part in expected.outputs.items():
        found = table[column_of(name, "prediction")].astype(part.prediction.dtype)  # SQLite has 1 for true
        assert found.tolist() == pytest.approx(part.prediction.tolist())
    rates = [c for c in table if c.startswith("probability_")]
    assert len(rates) == (7 if predictor.signature.probability else 0)


def test_a_logged_prediction_is_computed_again_and_not_explained(model, logged):
    _, settings, *_ = model
    row = logged.rows("several", 1)[0]
    found = explain(row.id, settings)
    assert found.reproduction.problem is None
    assert found.reproduction.prediction == row.prediction
    assert any("of one output, and the model has several" in note for note in found.missing)


@pytest.mark.slow
def test_a_replay_counts_and_scores_each_output(model, logged):
    _, settings, spec, X, predictor = model
    found = replay_log("several", 2, settings)
    assert (found.rows, found.labelled) == (300, 200)
    assert next(iter(found.metrics)) == spec.scorer
    assert {f"{spec.scorer} of {name}" for name in NAMES} <= found.metrics.keys()
    with closing(Registry.open(settings)) as registry:
        second = registry.load("several", 2)
    before, after = predictor.predict_frame(X), second.predict_frame(X)
    if spec.task == "classification":
        pairs = zip(before.prediction.tolist(), after.prediction.tolist(), strict=True)
        assert found.changed_predictions == sum(a != b for a, b in pairs)
        assert sum(found.changes.values()) >= found.changed_predictions > 0
        assert all(change.partition(": ")[0] in NAMES for change in found.changes)


def test_tables_of_production_have_a_column_an_output(model, logged):
    *_, spec, _, predictor = model
    table = logged_predictions(predictor, logged.read("several"))
    assert {*NAMES, *(column_of(name, "prediction") for name in NAMES)} <= {*table}
    tested = predict_labelled(predictor, spec.load())
    measure = "correct" if spec.task == "classification" else "error"
    assert tested[measure].notna().all()
    assert table[measure].notna().sum() == 200
    assert len(wrong_predictions(table)) <= 200
    window = logged.read("several", labelled=True)
    errors = errors_of(predictor.signature, window)
    assert errors.shape == (200,)
    rows = labelled_rows(spec, predictor.signature, logged.rows("several", labelled=True))
    assert len(rows) == 200
    assert {*spec.target} <= {*rows.table}


def test_the_dashboard_has_metrics_of_each_output_and_no_wrong_numbers(model, logged):
    _, _, spec, _, predictor = model
    span = TimeBuckets(1)
    gate = {"gate": "minimum", "metric": f"{spec.scorer} of late", "required": 0.5, "passed": True}
    manifest = {**predictor.bundle.manifest, "evaluation": {"gates": [gate]}}
    found = quality(logged.engine, "several", span, manifest, 1)
    values = {metric["metric"]: metric["value"] for metric in found["metrics"]}
    assert found["rows"] == 200
    assert values[f"{spec.scorer} of late"] > 0.5
    assert all(np.isfinite(value) for value in values.values())
    series = prediction_series(logged.engine, "several", span, spec.task)
    if spec.task == "regression":
        assert not any(value is not None for values in series["series"].values() for value in values)


def test_differences_of_outputs_are_counted_by_row(model):
    *_, X, predictor = model
    before = predictor.predict_frame(X)
    assert compare_predictions(before, before)["differ"] == 0
    late = before.outputs["late"]
    other = replace(late, prediction=late.prediction[::-1])
    changed = int((late.prediction != other.prediction).sum())
    found = compare_predictions(before, join_outputs({**before.outputs, "late": other}))
    assert (found["differ"], found["first"][0]["output"]) == (changed, "late")


@pytest.mark.slow
def test_a_collision_of_columns_is_refused(tmp_path):
    (tmp_path / "settings.ini").touch()
    spec = several_outputs(("a", "a_yes"), (str, str))
    table = spec.load().assign(a=lambda t: t["a"].replace({"maybe": "yes_yes"}))
    spec = replace(spec, load=lambda: table)
    _, X, predictor = served(spec, tmp_path)
    settings = Settings.read({"MLOPS_HOME": str(tmp_path), "MLOPS_MODEL": "several"})
    with closing(Registry.open(settings)) as registry:
        registry.register(predictor.bundle)
        registry.promote("several", 1)
    X.to_csv(tmp_path / "rows.csv", index=False)
    request = BatchRequest("several", str(tmp_path / "rows.csv"), str(tmp_path / "out.csv"), probability=True)
    with pytest.raises(BatchError, match="Two outputs and labels of the model give the column 'probability_a_yes_yes'"):
        predict_batch(request, settings=settings)
