"""Anomaly detectors: what is fitted, measured and packaged, and what is refused before it is fitted."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.cluster import KMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, SGDOneClassSVM
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from mlops_nb.data.tables import split
from mlops_nb.errors import GateError, SpecError, TrainingError
from mlops_nb.model.anomaly import as_labels, score_anomalies, truth_of
from mlops_nb.model.columns import input_frame
from mlops_nb.model.evaluate import Evaluation, evaluate
from mlops_nb.model.fairness import check_fairness
from mlops_nb.model.metric_checks import check_metrics
from mlops_nb.model.model_card import model_card
from mlops_nb.model.plots import plot_evaluation
from mlops_nb.model.signature import Predictions, Signature, signature_of
from mlops_nb.model.train import fit
from mlops_nb.monitor.performance import measure_performance
from mlops_nb.spec import Gates, ModelSpec
from tests.factories import anomalies, served

DETECTORS = {
    "forest": lambda: IsolationForest(n_estimators=20),
    "one class": lambda: make_pipeline(StandardScaler(), OneClassSVM(nu=0.05)),
    "neighbours": lambda: make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True)),
    "envelope": EllipticEnvelope,
    "linear": lambda: make_pipeline(StandardScaler(), Nystroem(n_components=20), SGDOneClassSVM(nu=0.05)),
}
METADATA = {
    "data": {"test_rows": 400, "train_rows": 400, "rows": 800, "source": "x", "split": "by seed 0", "sha256": "a"}
}
METADATA |= {"code": {"commit": None, "dirty": False}, "seed": 0, "params": {}}


def spec(make=DETECTORS["forest"], target: str | None = "odd", load=anomalies, **changes) -> ModelSpec:
    columns = {"x": pa.Column(float), "y": pa.Column(float), "site": pa.Column(int)}
    columns |= {} if target is None else {target: pa.Column(int)}
    given = {"scorer": "roc_auc"} if target else {}
    return ModelSpec(
        "toy", load, target, pa.DataFrameSchema(columns), lambda params: make(), task="anomaly", **(given | changes)
    )


def fitted(of: ModelSpec, rows: pd.DataFrame | None = None, **more):
    rows = anomalies() if rows is None else rows
    return fit(of, input_frame(of, rows), truth_of(of, rows), **more)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["odd", None])
@pytest.mark.parametrize("kind", DETECTORS)
def test_detector_is_fitted_packaged_and_gated(kind, target, tmp_path):
    gates = Gates(alarm_rate=(0.001, 0.6), groups={"site": {"selection_rate": 0.9}})
    of = spec(DETECTORS[kind], target, gates=gates, slices={"first": lambda X: X["site"] == 0})
    rows = anomalies()
    check_metrics(of, truth_of(of, rows), truth_of(of, rows))
    check_fairness(of, rows, rows)
    training = fitted(of, folds=3)
    assert np.isfinite(training.scores["score"]).all()
    estimator, X, predictor = served(of, tmp_path)
    found = predictor.predict_frame(rows)
    assert predictor.engine.name == "scikit-learn"
    assert predictor.bundle.manifest["onnx"]["reason"] == "an anomaly detector is served by scikit-learn"
    assert found.prediction == pytest.approx(-estimator.decision_function(X))
    assert ((estimator.predict(X) == -1) == found.anomaly).all()
    assert (found.anomaly == (found.prediction > 0)).all()
    assert predictor.signature == Signature.from_dict(predictor.signature.to_dict()) == signature_of(of, estimator)
    evaluation = evaluate(of, rows, truth_of(of, rows), truth_of(of, rows), found, found, 1)
    assert evaluation.passed, evaluation.failed
    names = {"minimum", "maximum", "groups"} | ({"baseline", "champion"} if target else set())
    assert {g.gate for g in evaluation.gates} == names
    assert evaluation.metrics["alarm_rate"] == found.anomaly.mean()
    card = model_card(of, predictor.signature, evaluation, METADATA)
    assert "higher is more anomalous" in card
    assert "None`" not in card
    assert len(plot_evaluation(of, truth_of(of, rows), found).axes) == 1
    assert Evaluation.from_dict(evaluation.to_dict()).gates[0] == evaluation.gates[0]


@pytest.mark.slow
def test_labels_change_no_detector():
    rows = anomalies()
    shuffled = rows.assign(odd=1 - rows["odd"])
    one, two = (fitted(spec(), table, folds=0).estimator for table in (rows, shuffled))
    unlabelled = fitted(spec(target=None), rows.drop(columns="odd"), folds=0).estimator
    X = rows[["x", "y", "site"]]
    assert (one.decision_function(X) == two.decision_function(X)).all()
    assert (one.decision_function(X) == unlabelled.decision_function(X)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (LocalOutlierFactor, r"LocalOutlierFactor has no score for rows .*Make it LocalOutlierFactor\(novelty=True\)"),
        (lambda: make_pipeline(StandardScaler(), LocalOutlierFactor()), r"Make it LocalOutlierFactor\(novelty=True\)"),
        (KMeans, "KMeans is no anomaly detector. Take one of IsolationForest, OneClassSVM"),
        (LogisticRegression, "LogisticRegression is no anomaly detector"),
        (lambda: make_pipeline(StandardScaler(), LogisticRegression()), "LogisticRegression is no anomaly detector"),
    ],
)
def test_estimator_without_a_score_is_refused_before_it_is_fitted(make, message):
    with pytest.raises(TrainingError, match=message):
        fitted(spec(make))


def test_search_without_labels_is_refused():
    with pytest.raises(TrainingError, match="A search needs labels"):
        fitted(spec(target=None), space={"n": [1]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": None, "task": "regression"}, "The task regression needs a target"),
        ({"target": None, "scorer": "roc_auc"}, "'roc_auc' needs labels, and target=None"),
        ({"target": None, "scorer": "accuracy", "gates": Gates(minimum={"recall": 0.1})}, "'recall' needs labels"),
        ({"gates": Gates(alarm_rate=(0, 0.1)), "task": "classification"}, "alarm_rate is a gate of task='anomaly'"),
        ({"interval": 0.9}, "An anomaly score has no interval"),
        ({"positive": 1}, "leave interval and positive out"),
        ({"ignored": ["anomaly"]}, "A column cannot be called 'anomaly'"),
        ({"task": "outlier"}, "task must be 'classification', 'regression' or 'anomaly'"),
    ],
)
def test_spec_that_contradicts_itself_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        replace(spec(), **changes)


@pytest.mark.parametrize("limits", [0.1, (0.1,), (0.2, 0.1), (0.1, 0.1), (-0.1, 0.1), (0, 1.1), ("a", "b"), (True, 1)])
def test_limits_of_the_alarm_rate_are_two_shares(limits):
    with pytest.raises(SpecError, match="alarm_rate must be the least and the largest share"):
        Gates(alarm_rate=limits)


@pytest.mark.parametrize("place", ["minimum", "slices"])
def test_alarm_rate_has_its_own_gate(place):
    with pytest.raises(SpecError, match=r"give Gates\(alarm_rate="):
        Gates(**{place: {"alarm_rate": 0.1}})


@pytest.mark.parametrize(("limits", "failed"), [((0.0, 0.2), 0), ((0.3, 0.5), 1), ((0.0, 0.05), 1)])
def test_alarm_rate_beyond_its_limits_fails(limits, failed):
    score = np.array([1.0] + [-1.0] * 9)
    found = Predictions(score, anomaly=score > 0)
    of = spec(target=None, gates=Gates(alarm_rate=limits))
    evaluation = evaluate(of, pd.DataFrame({"x": score}), [np.nan] * 10, [np.nan], found)
    assert len(evaluation.failed) == failed
    assert [str(g) for g in evaluation.gates][1].endswith(f"required at most {limits[1]:.6g}")


@pytest.mark.parametrize("label", [2, -1, 0.5])
def test_label_that_is_not_0_or_1_is_refused_before_training(label):
    y = pd.Series([0, 1, label])
    with pytest.raises(GateError, match="The labels of anomalies are 0 and 1, or false and true, and 'odd' has"):
        check_metrics(spec(), y, y)


def test_labels_that_define_no_metric_are_refused_before_training():
    y = pd.Series([0, 1, 1, 0])
    with pytest.raises(GateError, match="'roc_auc' is not defined on the 4 test rows whose target is only 0"):
        check_metrics(spec(), y, y * 0)
    for metric in ("r2", "neg_mean_absolute_error", "acuracy"):
        with pytest.raises(GateError, match=f"'{metric}' is not a metric of anomalies"):
            check_metrics(spec(metrics=[metric]), y, y)
    with pytest.raises(SpecError, match="'recall' needs labels"):
        check_fairness(spec(target=None, gates=Gates(groups={"site": {"recall": 0.1}})), anomalies(), anomalies())


def test_table_without_a_target_is_split():
    train, test = split(anomalies().drop(columns="odd"), None, 0.25, stratify=True)
    assert (len(train), len(test)) == (300, 100)


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(-5, 5), st.sampled_from([0, 1])), min_size=1, max_size=30))
def test_metrics_are_those_of_scikit_learn_or_not_defined(pairs):
    score, y = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    found = Predictions(score, anomaly=score > 0)
    names = ("roc_auc", "average_precision", "accuracy", "precision", "recall", "f1", "alarm_rate")
    values = score_anomalies(found, y, names)
    assert values["alarm_rate"] == (score > 0).mean()
    assert values["accuracy"] == ((score > 0) == y).mean()
    if len(np.unique(y)) == 2:
        assert values["roc_auc"] == sk.roc_auc_score(y, score)
    else:
        assert np.isnan(values["roc_auc"])
    assert np.isnan(values["precision"]) == (not (score > 0).any())
    unknown = score_anomalies(found, np.full(len(y), np.nan), names)
    assert {name for name, value in unknown.items() if not np.isnan(value)} == {"alarm_rate"}
    assert as_labels(found).prediction.tolist() == (score > 0).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["odd", None])
def test_labels_of_production_are_measured(target, tmp_path):
    of, rows = spec(target=target), anomalies()
    _, _, predictor = served(of, tmp_path)
    found = predictor.predict_frame(rows)
    evaluation = evaluate(of, rows, truth_of(of, rows), truth_of(of, rows), found)
    measured = measure_performance(of, rows, rows["odd"].tolist(), found, evaluation.to_dict())
    by_metric = {r.metric: r for r in measured.results}
    area = by_metric["roc_auc"]
    assert area.value == pytest.approx(sk.roc_auc_score(rows["odd"], found.prediction))
    assert area.low < area.value <= area.high
    assert area.below_gate is (False if target else None)
    assert target or {*by_metric} == {"roc_auc", "average_precision"}
    accuracy = measure_performance(replace(spec(), scorer="accuracy"), rows, rows["odd"].tolist(), found).results[0]
    assert accuracy.value == (found.anomaly == rows["odd"]).mean()


@pytest.mark.parametrize("scoring", [None, "roc_auc"])
@pytest.mark.parametrize("target", [None, "odd"])
def test_search_inside_a_detector_that_needs_labels_is_refused(target, scoring):
    def make(params):
        return GridSearchCV(IsolationForest(), {"n_estimators": [5, 10]}, scoring=scoring)

    columns = {name: pa.Column(float) for name in "xy"} | ({} if target is None else {target: pa.Column(int)})
    spec = ModelSpec("toy", anomalies, target, pa.DataFrameSchema(columns), make, task="anomaly")
    rows = anomalies()
    with pytest.raises(TrainingError, match="GridSearchCV compares candidates by labels, and a detector is fitted"):
        fit(spec, rows[spec.inputs], truth_of(spec, rows), folds=0)
