"""A threshold in a spec decides everywhere: in the folds, the graph, the bundle and the metrics."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, TunedThresholdClassifierCV
from sklearn.neighbors import KNeighborsClassifier as KNN
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from mlops_nb.errors import TrainingError
from mlops_nb.model.backtest import backtest
from mlops_nb.model.bundle import load_engine, write_bundle
from mlops_nb.model.columns import to_table
from mlops_nb.model.conversion import convert
from mlops_nb.model.engine import SklearnEngine, compare
from mlops_nb.model.scoring import score
from mlops_nb.model.signature import Signature, signature_of
from mlops_nb.model.threshold import choose_threshold
from mlops_nb.model.train import fit
from mlops_nb.spec import ModelSpec

AIMS = ["recall >= 0.6", "precision >= 0.6", "false_positive_rate <= 0.6", "selection_rate <= 0.6"]
rates = st.lists(st.sampled_from([0.0, 1e-9, 0.1, 0.3, 0.5, 0.5000001, 0.9, 1.0]), min_size=2, max_size=30)
FACTS = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": None}


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=1200), "z": rng.normal(size=1200)})
    late = frame["x"] + 0.5 * rng.normal(size=1200) > 1.5
    return frame.assign(late=np.where(late, "yes", "no"), day=np.arange(1200))


def make_spec(make=LogisticRegression, **more):
    columns = {"x": pa.Column(float), "z": pa.Column(float), "late": pa.Column(str), "day": pa.Column(int)}
    given = {"positive": "yes", "ignored": ["day"], "scorer": "average_precision", "threshold": "recall >= 0.85"} | more
    schema = pa.DataFrameSchema(columns if "time" in given else {k: v for k, v in columns.items() if k != "day"})
    return ModelSpec("parcels", lambda: None, "late", schema, lambda params: make(**params), **given)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        LogisticRegression,
        lambda: make_pipeline(StandardScaler(), LogisticRegression()),
        lambda: HistGradientBoostingClassifier(max_iter=10),
    ],
    ids=["linear", "pipeline", "trees"],
)
def test_bundle_predicts_at_the_threshold_by_its_graph_as_by_scikit_learn(make, table, tmp_path):
    spec, train, test = make_spec(make), table[:800], table[800:]
    training = fit(spec, train[spec.inputs], train["late"])
    signature = signature_of(spec, training.estimator, {})
    assert Signature.from_dict(signature.to_dict()) == signature
    assert signature.threshold == training.threshold < 0.5
    bundle = write_bundle(tmp_path / "parcels", "parcels", training.estimator, signature, test, train, FACTS)
    loaded = {name: load_engine(bundle.path, engine=name)[1] for name in ("onnxruntime", "scikit-learn")}
    rows = to_table(signature, test)
    found = {name: engine.predict(rows) for name, engine in loaded.items()}
    assert loaded["onnxruntime"].name == "onnxruntime"
    assert compare(found["scikit-learn"], found["onnxruntime"])[0] is None
    decided = np.where(found["onnxruntime"].probability[:, 1] >= training.threshold, "yes", "no")
    assert (found["onnxruntime"].prediction == decided).all()
    assert score(found["onnxruntime"], test["late"], ["recall"])["recall"] >= 0.75
    for engine in loaded.values():
        engine.close()


@pytest.mark.slow
def test_rows_at_the_threshold_are_decided_by_scikit_learn(table, tmp_path):
    spec = make_spec(threshold=0.3)
    estimator = fit(spec, table[spec.inputs], table["late"], folds=0).estimator
    inner, signature = estimator.estimator, signature_of(spec, estimator, {})
    weight, bias = inner.estimator.coef_[0], inner.estimator.intercept_[0]
    z = np.linspace(-2, 2, 200)
    x = (np.log(0.3 / 0.7) - bias - weight[1] * z) / weight[0]
    edge = pd.DataFrame({"x": x + np.resize([-1e-12, 0, 1e-12], len(z)), "z": z})  # alike in 32 bits
    bundle = write_bundle(tmp_path / "parcels", "parcels", estimator, signature, table, table, FACTS)
    engine = load_engine(bundle.path)[1]
    assert engine.name == "onnxruntime"
    expected = SklearnEngine(estimator, signature).predict(to_table(signature, edge))
    assert set(expected.prediction) == {"yes", "no"}, "the rows are at the threshold"
    assert (engine.predict(to_table(signature, edge)).prediction == expected.prediction).all()
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrapped",
    [
        FixedThresholdClassifier(LogisticRegression(), threshold=0.2, pos_label="yes"),
        FixedThresholdClassifier(LogisticRegression(), threshold=0.2, pos_label="no"),
        FixedThresholdClassifier(
            LogisticRegression(), threshold=-1.0, pos_label="yes", response_method="decision_function"
        ),
        make_pipeline(StandardScaler(), FixedThresholdClassifier(LogisticRegression(), threshold=0.2, pos_label="yes")),
    ],
    ids=["fixed", "other label", "decision function", "last step"],
)
def test_threshold_that_a_person_wrote_into_the_estimator_is_served_as_fitted(wrapped, table):
    spec = make_spec(threshold=None)
    estimator = wrapped.fit(table[spec.inputs], table["late"])
    signature = signature_of(spec, estimator, {})
    rows = to_table(signature, table)
    found = convert(estimator, signature, rows)
    assert (found.onnx is not None) == (signature.threshold == 0.2)
    assert (SklearnEngine(estimator, signature).predict(rows).prediction == estimator.predict(table[spec.inputs])).all()


@pytest.mark.slow
def test_tuned_threshold_of_scikit_learn_is_converted(table):
    spec = make_spec(threshold=None, positive=None, scorer="f1")
    late = (table["late"] == "yes").astype(int)
    spec = replace(spec, schema=spec.schema.update_column("late", dtype=int), positive=1)
    estimator = TunedThresholdClassifierCV(LogisticRegression(), scoring="f1").fit(table[spec.inputs], late)
    signature = signature_of(spec, estimator, {})
    assert signature.threshold == estimator.best_threshold_
    assert convert(estimator, signature, to_table(signature, table)).onnx is not None


@pytest.mark.slow
def test_folds_and_search_are_scored_at_the_threshold(table):
    X, y = table[["x", "z"]], table["late"]
    greedy = fit(make_spec(threshold=0.05, scorer="recall"), X, y)
    assert (
        greedy.scores["score"].mean()
        > 0.9
        > fit(make_spec(threshold=0.9, scorer="recall"), X, y).scores["score"].mean()
    )
    searched = fit(make_spec(threshold=0.05, scorer="recall"), X, y, space={"C": [0.1, 1.0]}, folds=3)
    assert searched.search["mean"].min() > 0.9
    asked = fit(make_spec(threshold="recall >= 0.95", scorer="recall"), X, y, space={"C": [0.1, 1.0]}, folds=3)
    assert asked.scores["score"].mean() > 0.9 > asked.search["mean"].max(), "a search comes before the choice"


def test_threshold_of_numpy_is_in_the_signature_as_any_other(table):
    spec = make_spec(threshold=np.float32(0.25))
    training = fit(spec, table[["x", "z"]], table["late"], folds=0)
    assert training.threshold == signature_of(spec, training.estimator, {}).threshold == 0.25


@pytest.mark.slow
def test_aim_is_of_the_rows_as_they_count_in_the_fit(table):
    recent = table["z"] > 1.2  # rows of production, few and heavy, in a world that has turned
    weights = np.where(recent, 10.0, 0.1)
    late = np.random.default_rng(1).normal(-table["x"], 0.5) > 0
    shifted = table.assign(late=np.where(recent, np.where(late, "yes", "no"), table["late"]))
    X, y = shifted[["x", "z"]], shifted["late"]
    chosen = {}
    for name, make in (("weighed", LogisticRegression), ("not", lambda: KNN(50))):
        training = fit(make_spec(make, threshold="recall >= 0.6"), X, y, weights=weights)
        alike = fit(make_spec(make, threshold="recall >= 0.6"), X, y)
        assert training.weighted == (name == "weighed")
        chosen[name] = (training.threshold, alike.threshold)
        found = training.estimator.predict(X[y == "yes"]) == "yes"
        if name == "weighed":
            assert np.average(found, weights=weights[y == "yes"]) == pytest.approx(0.6, abs=0.05)
    assert chosen["not"][0] == chosen["not"][1], "an estimator that takes no weights counts every row once"


@pytest.mark.slow
@given(rates, st.data(), st.sampled_from([*AIMS, {"false_positive": 1, "false_negative": 3}]))
@settings(max_examples=100, deadline=None)
def test_row_that_counts_thrice_is_three_rows(probability, data, wanted):
    n = len(probability)
    truth = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    times = np.array(data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)))
    rates = np.array(probability)
    try:
        expected = choose_threshold(wanted, truth.repeat(times), rates.repeat(times))
    except TrainingError:
        with pytest.raises(TrainingError, match="No threshold reaches"):
            choose_threshold(wanted, truth, rates, times)
        return
    assert choose_threshold(wanted, truth, rates, times) == expected


def test_model_without_probabilities_or_with_three_labels_has_no_threshold(table):
    X, y = table[["x", "z"]], table["late"]
    with pytest.raises(TrainingError, match="needs predict_proba, which LinearSVC does not have"):
        fit(make_spec(LinearSVC, scorer="f1"), X, y)
    with pytest.raises(TrainingError, match="the target has 3"):
        fit(make_spec(), X, y.where(table["day"] > 100, "never"))
    with pytest.raises(TrainingError, match="positive='no' or positive='yes'"):
        fit(make_spec(positive=None, scorer="accuracy"), X, y)


@pytest.mark.slow
def test_backtest_chooses_a_threshold_at_each_origin(table):
    spec = make_spec(time="day", ignored=[], threshold="recall >= 0.9", metrics=["recall"])
    careful = backtest(spec, table, 2)["recall"]
    assert (careful > backtest(replace(spec, threshold=None), table, 2)["recall"]).all()


def test_regression_is_fitted_as_before(table):
    schema = pa.DataFrameSchema({"x": pa.Column(float), "z": pa.Column(float)})
    spec = ModelSpec("line", lambda: None, "z", schema, lambda params: LinearRegression(), "r2", "regression")
    assert fit(spec, table[["x"]], table["z"]).threshold is None


@pytest.mark.slow
@given(
    rates,
    st.randoms(use_true_random=False),
    st.sampled_from(["recall", "precision", "false_positive_rate", "selection_rate"]),
)
@settings(max_examples=200, deadline=None)
def test_chosen_threshold_reaches_its_aim_or_none_does(probability, random, metric):
    rates, truth = np.array(probability), np.array([random.random() < 0.5 for _ in probability])
    aim = f"{metric} {'>=' if metric in ('recall', 'precision') else '<='} 0.6"
    measured = {}
    for threshold in {*np.nextafter(rates[rates < 1], 2).tolist(), *rates[rates > 0].tolist()}:
        flagged = rates >= threshold
        counts = {"recall": (flagged & truth).sum() / max(1, truth.sum()), "selection_rate": flagged.mean()}
        counts["precision"] = (flagged & truth).sum() / max(1, flagged.sum())
        counts["false_positive_rate"] = (flagged & ~truth).sum() / max(1, (~truth).sum())
        if flagged.any():
            measured[threshold] = counts[metric]
    reaches = any(v >= 0.6 if ">" in aim else v <= 0.6 for v in measured.values())
    try:
        flagged = rates >= choose_threshold(aim, truth, rates)
    except TrainingError:
        assert not reaches
        return
    assert reaches
    value = {
        "recall": (flagged & truth).sum() / max(1, truth.sum()),
        "precision": (flagged & truth).sum() / max(1, flagged.sum()),
        "false_positive_rate": (flagged & ~truth).sum() / max(1, (~truth).sum()),
        "selection_rate": flagged.mean(),
    }[metric]
    assert value >= 0.6 if ">" in aim else value <= 0.6
