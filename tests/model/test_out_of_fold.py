"""References of predictions: as many rows as a test needs, of rows that the model has not seen."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from mlops_nb.data.tables import LINEAGE
from mlops_nb.model.anomaly import truth_of
from mlops_nb.model.bundle import write_bundle
from mlops_nb.model.columns import input_frame
from mlops_nb.model.out_of_fold import choose_reference, required_rows
from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.model.signature import Input, Predictions, Signature, signature_of
from mlops_nb.model.train import fit
from mlops_nb.monitor.drift import measure_drift
from mlops_nb.spec import ModelSpec
from tests.factories import anomalies, several_outputs

TWO = Signature((Input("a"), Input("b")), "classification", "y", (0, 1))
SIGNATURES = {
    "two labels": TWO,
    "ten labels": replace(TWO, classes=tuple(range(10))),
    "ten labels alone": replace(TWO, classes=tuple(range(10)), probability=False),
    "number": replace(TWO, task="regression", classes=None),
    "forty inputs": replace(TWO, inputs=tuple(Input(f"x{i}") for i in range(40))),
}


def draw(rng, signature: Signature, n: int) -> Predictions:
    if signature.classes is None:
        return Predictions(rng.normal(size=n))
    rates = rng.dirichlet(np.ones(len(signature.classes)), n)
    labels = rng.integers(len(signature.classes), size=n)
    return signature.predictions(labels, rates if signature.probability else None)


@pytest.mark.parametrize("kind", SIGNATURES)
def test_required_rows_are_those_with_which_drift_decides(kind):
    signature, rng = SIGNATURES[kind], np.random.default_rng(0)
    least, enough = required_rows(signature)

    def outputs(rows: int, window: int):
        found, now = draw(rng, signature, rows), draw(rng, signature, window)
        listed = found.classes is not None
        output = profile_values(found.prediction, listed=True) if listed else profile_numbers(found.prediction)
        rates = [] if found.probability is None else found.probability.T
        probability = {str(c): profile_numbers(p) for c, p in zip(found.classes or (), rates, strict=False)} or None
        inputs = pd.DataFrame(rng.normal(size=(window, len(signature.inputs))), columns=signature.names)
        profile = {"inputs": {name: profile_numbers(inputs[name].to_numpy()) for name in inputs}}
        report = measure_drift(profile | {"output": output, "probability": probability}, inputs, now)
        return [c for c in report.columns if c.role != "input"]

    assert {c.drifted for c in outputs(enough, enough)} == {False}
    assert any(c.permanent for c in outputs(least // 3, 100_000))


def specs() -> dict:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(400, 2)), columns=["x", "z"])
    table["at"] = pd.date_range("2026-01-01", periods=400, freq="h")
    table["y"] = np.where(table["x"] + rng.normal(size=400) > 0, "yes", "no")
    schema = pa.DataFrameSchema({"x": pa.Column(float), "z": pa.Column(float), "y": pa.Column(str)})
    labels = ModelSpec("labels", lambda: table, "y", schema, lambda p: LogisticRegression(**p), positive="yes")
    flags = pa.DataFrameSchema({"x": pa.Column(float), "y": pa.Column(float), "site": pa.Column(int)})
    numbers = {
        "load": lambda: table.assign(y=table["x"]),
        "schema": schema.update_column("y", dtype=float),
        "task": "regression",
        "make_estimator": lambda p: Ridge(**p),
    }
    numbers |= {"positive": None, "scorer": "r2"}
    return {
        "labels": labels,
        "threshold": replace(labels, threshold="recall >= 0.9", scorer="recall"),
        "no probabilities": replace(labels, make_estimator=lambda p: LinearSVC(**p), scorer="accuracy", positive=None),
        "numbers": replace(labels, **numbers),
        "in time": replace(labels, time="at", schema=schema.add_columns({"at": pa.Column("datetime64[ns]")})),
        "several": several_outputs(n=400),
        "detector": ModelSpec(
            "odd", anomalies, None, flags, lambda p: IsolationForest(**p), task="anomaly", ignored=["odd"]
        ),
    }


def reference(kind: str, folds: int = 3):
    spec = specs()[kind]
    rows = spec.load()
    fitted = fit(spec, input_frame(spec, rows), truth_of(spec, rows), folds=folds)
    asked = {"params": fitted.params, "seed": 0, "seconds": 1, "threshold": fitted.threshold, "asked": {"folds": 3}}
    signature = signature_of(spec, fitted.estimator)
    return spec, rows, fitted.estimator, signature, choose_reference(spec, signature, fitted.estimator, rows, 40, asked)


@pytest.mark.parametrize("kind", specs())
def test_every_kind_of_model_has_out_of_fold_predictions(kind):
    spec, rows, estimator, _, (found, sentence) = reference(kind)
    held_out = len(rows) // 4 * 3 if spec.time else len(rows)
    assert sentence == (
        "40 test rows: predictions cannot be monitored for drift; out-of-fold predictions of "
        f"{held_out} training rows are used as the reference instead."
    )
    assert len(found.rows) == len(found.predictions.prediction) == held_out
    if kind == "threshold":
        likelier = estimator.classes_[found.predictions.probability.argmax(axis=1)]
        assert (found.predictions.prediction != likelier).any(), "decided by the threshold"


@pytest.mark.parametrize("kind", ["in time", "several"])
def test_profile_of_a_bundle_has_the_reference(kind, tmp_path):
    spec, rows, estimator, signature, (found, _) = reference(kind)
    metadata = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": None}
    more = {"time": spec.time, "out_of_fold": found}
    bundle = write_bundle(tmp_path / "b", spec.name, estimator, signature, rows.head(40), rows, metadata, **more)
    profiles = bundle.profile().get("outputs", {"": bundle.profile()})
    assert {profile["output"]["rows"] for profile in profiles.values()} == {len(found.rows)}


def test_reference_of_a_retraining_has_rows_of_production_alone():
    spec = specs()["labels"]
    rows = pd.concat([spec.load(), spec.load()], ignore_index=True)
    rows.attrs[LINEAGE] = {"production": {"rows": 300}, "weight": 2.0}
    fitted = fit(spec, input_frame(spec, rows), rows["y"], folds=3)
    asked = {"params": {}, "seed": 0, "seconds": 1, "threshold": None, "asked": {"folds": 3}}
    found, _ = choose_reference(spec, signature_of(spec, fitted.estimator), fitted.estimator, rows, 40, asked)
    assert sorted(found.rows.index) == [*range(500, 800)]


def test_fold_without_a_class_is_no_reference():
    spec = specs()["in time"]
    rows = spec.load()
    rows["y"] = np.where(rows.index > 200, "yes", "no")
    fitted = fit(spec, input_frame(spec, rows), rows["y"], folds=0)
    asked = {"params": {}, "seed": 0, "seconds": 1, "threshold": None, "asked": {"folds": 3}}
    found, sentence = choose_reference(spec, signature_of(spec, fitted.estimator), fitted.estimator, rows, 40, asked)
    assert found is None
    assert "predictions cannot be monitored for drift; the folds cannot be fitted again" in sentence


def test_spec_that_mutes_its_predictions_needs_no_reference():
    spec = replace(specs()["labels"], drift={"prediction": None})
    assert choose_reference(spec, TWO, None, pd.DataFrame(), 3, {}) == (None, "")


def test_rows_of_one_thing_are_held_out_together():
    spec = replace(specs()["labels"], group="thing", ignored=["thing"])
    rows = spec.load().assign(thing=np.arange(400) // 4)
    asked = {"params": {}, "seed": 0, "seconds": 1, "threshold": None, "asked": {"folds": 4}}
    estimator = LogisticRegression().fit(rows[["x", "z"]], rows["y"])
    found, sentence = choose_reference(spec, signature_of(spec, estimator), estimator, rows, 40, asked)
    assert "are used as the reference instead" in sentence
    things = found.rows["thing"].to_numpy()
    assert (things[1:] != things[:-1]).sum() == 99, "each thing is in one piece"
