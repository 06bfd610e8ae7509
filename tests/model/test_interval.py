"""Intervals hold the truth at their level, whatever the noise, and what cannot have one is refused before training."""

import json

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsRegressor
from sklearn.svm import LinearSVC

from mlops_nb.errors import BundleError, GateError, SpecError, TrainingError
from mlops_nb.model.bundle import read_manifest, write_bundle
from mlops_nb.model.evaluate import evaluate
from mlops_nb.model.interval import (
    LAC,
    Interval,
    conformal_quantile,
    conformal_scores,
    fit_interval,
    measure_interval,
    rows_needed,
)
from mlops_nb.model.metric_checks import check_metrics
from mlops_nb.model.signature import Input, Predictions, Signature, signature_of
from mlops_nb.model.train import fit
from mlops_nb.spec import Gates, ModelSpec

SPLITS, ROWS, FOLDS, NEW = 1000, 200, 5, 50
NOISES = {
    "normal": lambda rng, x: rng.normal(size=x.shape),
    "heteroscedastic": lambda rng, x: rng.normal(size=x.shape) * (0.2 + abs(x)),
    "skewed": lambda rng, x: rng.exponential(size=x.shape) - 1,
    "heavy tails": lambda rng, x: rng.standard_t(2, size=x.shape),
    "ties": lambda rng, x: rng.integers(-3, 4, size=x.shape).astype(float),
}


def line(x, y, at):
    """Predict with the least squares of each split: `(n_splits, n_rows)` each."""
    centered = x - x.mean(axis=1, keepdims=True)
    slope = (centered * y).sum(axis=1, keepdims=True) / (centered**2).sum(axis=1, keepdims=True)
    return y.mean(axis=1, keepdims=True) + slope * (at - x.mean(axis=1, keepdims=True))


def three_means(x, y, at):
    """Return probabilities of three classes, normal around the mean of each: `(n_splits, n_rows, 3)`."""
    one_hot = y[..., None] == np.arange(3)
    means = (x[..., None] * one_hot).sum(axis=1) / np.maximum(one_hot.sum(axis=1), 1)
    density = one_hot.mean(axis=1)[:, None] * np.exp(-((at[..., None] - means[:, None]) ** 2) / 2)
    return density / density.sum(axis=2, keepdims=True)


def held_out(model, x, y):
    """Predict each row by a model of the other folds."""
    parts = np.array_split(np.arange(x.shape[1]), FOLDS)
    predict = [model(np.delete(x, part, axis=1), np.delete(y, part, axis=1), x[:, part]) for part in parts]
    return np.concatenate(predict, axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("noise", NOISES)
def test_regression_covers_its_level(noise, level):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SPLITS, ROWS + NEW))
    y = 2 * x + NOISES[noise](rng, x)
    x, y, at, truth = x[:, :ROWS], y[:, :ROWS], x[:, ROWS:], y[:, ROWS:]
    out_of_fold, predicted = held_out(line, x, y), line(x, y, at)
    measured = []
    for i in range(SPLITS):
        interval = fit_interval(level, y[i], out_of_fold[i])
        measured.append(measure_interval(interval, truth[i], predicted[i])["interval_coverage"])
    most = 1 if noise == "ties" else level + 0.01  # a residual of many rows is within for all of them
    assert level - 0.01 <= np.mean(measured) <= most


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_three_classes_cover_their_level(level):
    rng = np.random.default_rng(1)
    y = rng.choice(3, p=[0.5, 0.3, 0.2], size=(SPLITS, ROWS + NEW))
    x = 1.2 * y + rng.normal(size=y.shape)
    x, y, at, truth = x[:, :ROWS], y[:, :ROWS], x[:, ROWS:], y[:, ROWS:]
    out_of_fold, probability = held_out(three_means, x, y), three_means(x, y, at)
    measured, classes = [], [0, 1, 2]
    for i in range(SPLITS):
        interval = fit_interval(level, y[i], out_of_fold[i], classes)
        prediction = probability[i].argmax(axis=1)
        measured.append(measure_interval(interval, truth[i], prediction, probability[i], classes)["interval_coverage"])
    assert np.mean(measured) == pytest.approx(level, abs=0.01)


@pytest.mark.parametrize("level", [0.8, 0.9])
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_weighed_rows_cover_the_rows_to_come(level, share):
    """The rows to come are like a part of those of training, which count tenfold; the others are noisier, or less."""
    rng = np.random.default_rng(2)
    for others in (4.0, 0.25):
        covered = []
        for _ in range(300):
            is_new = np.arange(300) < 300 * share
            scores = np.abs(rng.normal(size=300)) * np.where(is_new, 1, others)
            weights = np.where(is_new, 300.0, 1.0)
            quantile = conformal_quantile(scores, level, weights)
            covered.append((np.abs(rng.normal(size=200)) <= quantile).mean())
        assert np.mean(covered) == pytest.approx(level, abs=0.02)


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(20, 60),
    weight=st.floats(1e-6, 1e6),
    level=st.integers(1, 94).map(lambda hundredths: hundredths / 100),
)
def test_equal_weights_change_nothing_and_a_whole_one_is_a_row_often_repeated(seed, n, weight, level):
    rng = np.random.default_rng(seed)
    scores = rng.exponential(size=n).round(seed % 3)
    plain = conformal_quantile(scores, level)
    assert conformal_quantile(scores, level, np.full(n, weight)) == plain
    times = rng.integers(1, 4, size=n).astype(float)
    if times.sum() / times.max() >= rows_needed(level):
        heavy = conformal_quantile(scores, level, times)
        assert heavy >= conformal_quantile(np.repeat(scores, times.astype(int)), level), (
            "the row to come counts as the heaviest"
        )


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(20, 60), levels=st.tuples(*[st.floats(0.01, 0.95)] * 2))
def test_higher_level_is_never_narrower(seed, n, levels):
    scores = np.random.default_rng(seed).exponential(size=n).round(seed % 3)  # with ties
    assert conformal_quantile(scores, min(levels)) <= conformal_quantile(scores, max(levels))


@pytest.mark.slow
@given(
    prediction=arrays.arrays(float, 7, elements=st.floats(allow_nan=False, allow_infinity=False)),
    quantile=st.floats(0, allow_infinity=False),
)
def test_interval_contains_the_prediction_and_is_finite(prediction, quantile):
    low, high = Interval(0.9, quantile, 99).bounds(prediction).T
    assert ((low <= prediction) & (prediction <= high)).all()
    assert np.isfinite([low, high]).all()


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1), quantiles=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_set_contains_the_prediction_and_grows_with_the_quantile(seed, quantiles):
    rng, classes = np.random.default_rng(seed), ["a", "b", "c"]
    probability, labels = rng.dirichlet([1, 1, 1], size=5).round(1), rng.choice(classes, size=5)
    small, large = (Interval(0.9, q, 99, LAC).sets(labels, probability, classes) for q in sorted(quantiles))
    for label, few, many, shares in zip(labels, small, large, probability, strict=True):
        assert label in few
        assert set(few) <= set(many)
        found = [shares[classes.index(member)] for member in many]
        assert found == sorted(found, reverse=True)


@pytest.mark.slow
@given(level=st.integers(1, 999).map(lambda thousandths: thousandths / 1000))
def test_least_number_of_rows_is_exact(level):
    needed = rows_needed(level)
    assert conformal_quantile(np.arange(needed), level) >= 0
    with pytest.raises(TrainingError, match="rows that are held out"):
        conformal_quantile(np.arange(needed - 1), level)


def test_tie_of_single_precision_is_in_the_set():
    interval = fit_interval(0.5, ["a"] * 9, np.full((9, 2), [0.3, 0.7]), ["a", "b"])
    served = np.array([[0.3, 0.7]], dtype=np.float32).astype(float) - 1e-7
    assert interval.sets(np.array(["b"]), served, ["a", "b"]) == [["b", "a"]]


def test_label_that_no_fold_has_seen_has_the_worst_score():
    assert conformal_scores(["a", "z"], np.array([[0.9, 0.1]] * 2), ["a", "b"]) == pytest.approx([0.1, 1])


def test_prediction_that_is_not_finite_is_refused():
    with pytest.raises(TrainingError, match="1 of 20 held-out rows have no finite prediction"):
        fit_interval(0.9, np.zeros(20), np.array([np.nan] + [0.0] * 19))


X = pd.DataFrame({"x": np.random.default_rng(0).normal(size=120), "when": pd.date_range("2024-01-01", periods=120)})
Y = pd.Series(3 * X["x"] + np.random.default_rng(1).normal(size=120), name="y")
LABELS = pd.Series(np.where(X["x"] > 0.6, "high", np.where(X["x"] > -0.6, "middle", "low")), name="y")


def spec_of(task="regression", make=lambda params: LinearRegression(**params), **more) -> ModelSpec:
    schema = pa.DataFrameSchema({"x": pa.Column(float), "when": pa.Column("datetime64[ns]"), "y": pa.Column()})
    scorer = "r2" if task == "regression" else "accuracy"
    return ModelSpec("toy", X.copy, "y", schema, make, scorer, task, **({"interval": 0.9} | more))


def test_interval_is_of_the_rows_that_the_folds_hold_out():
    at_random, in_time = fit(spec_of(), X[["x"]], Y), fit(spec_of(time="when"), X[["x"]], Y)
    assert (at_random.interval.rows, in_time.interval.rows) == (120, 100)
    measured = measure_interval(at_random.interval, Y, at_random.estimator.predict(X[["x"]]))
    assert 0.85 < measured["interval_coverage"] < 0.97
    assert fit(spec_of(interval=None), X[["x"]], Y).interval is None


def test_parameters_are_those_that_the_search_chose():
    found = fit(spec_of(), X[["x"]], Y + 50, space={"fit_intercept": [False, True]})
    assert found.params == {"fit_intercept": True}
    assert found.interval.quantile < 5


def test_weights_count_in_the_fits_of_the_folds():
    shifted = Y + np.where(np.arange(120) % 2, 100, 0)
    weights = np.where(np.arange(120) % 2, 1e-9, 1.0)
    assert fit(spec_of(interval=0.4), X[["x"]], shifted, weights=weights).interval.quantile < 5
    assert fit(spec_of(interval=0.4), X[["x"]], shifted).interval.quantile > 40


@pytest.mark.slow
def test_weights_count_in_the_quantile_as_in_the_fits(monkeypatch):
    noisy = 3 * X["x"] + np.where(np.arange(120) % 2, 0.1, 5.0) * np.random.default_rng(3).normal(size=120)
    weights = np.where(np.arange(120) % 2, 10.0, 1.0)
    plain, weighed = (fit(spec_of(), X[["x"]], noisy, weights=w).interval.quantile for w in (None, weights))
    assert weighed < plain
    unweighed = spec_of(make=lambda params: KNeighborsRegressor(5))
    assert fit(unweighed, X[["x"]], noisy).interval == fit(unweighed, X[["x"]], noisy, weights=weights).interval
    monkeypatch.setattr("mlops_nb.model.train.check_loadable", lambda *_: pytest.fail("it was fitted"))
    with pytest.raises(
        TrainingError, match=r"got 120 that count as 6.0 of the heaviest: with fewer it would be infinite"
    ):
        fit(spec_of(), X[["x"]], Y, weights=np.where(np.arange(120) < 5, 115, 1.0))


def test_class_that_the_first_rows_lack_is_not_probable_in_their_fold():
    late = LABELS.copy()
    late[110:] = "late"
    spec = spec_of("classification", lambda params: LogisticRegression(**params), time="when")
    found = fit(spec, X[["x"]], late).interval
    assert (found.method, found.rows) == (LAC, 100)
    assert found.quantile <= 1


@pytest.mark.parametrize(
    ("spec", "rows", "folds", "words"),
    [
        (spec_of(interval=0.99), 98, 5, "interval=0.99 needs at least 99 rows that are held out, got 98"),
        (spec_of(interval=0.95, time="when"), 23, 5, "needs at least 19 rows that are held out, got 15"),
        (spec_of(), 120, 0, "folds must be at least 2, got 0"),
        (spec_of("classification", lambda params: LinearSVC(**params)), 120, 5, "needs predict_proba, which LinearSVC"),
    ],
)
def test_interval_that_cannot_be_is_refused_before_anything_is_fitted(monkeypatch, spec, rows, folds, words):
    for name in ("check_loadable", "_fit", "_score"):
        monkeypatch.setattr(f"mlops_nb.model.train.{name}", lambda *_: pytest.fail("it was fitted"))
    y = LABELS if spec.task == "classification" else Y
    with pytest.raises(TrainingError, match=words):
        fit(spec, X[["x"]][:rows], y[:rows], folds=folds)


@pytest.mark.parametrize("level", [0, 1, 90, "0.9", True, float("nan")])
def test_level_is_a_rate(level):
    with pytest.raises(SpecError, match=r"must be a rate between 0 and 1, such as 0\.9"):
        spec_of(interval=level)


def test_gates_ask_for_coverage_and_width():
    gates = Gates(minimum={"r2": 0.1, "interval_coverage": 0.87, "interval_width": 1.0, "neg_interval_width": -0.5})
    spec = spec_of(gates=gates)
    check_metrics(spec, Y, Y)
    training = fit(spec, X[["x"]], Y)
    predictions = Predictions(training.estimator.predict(X[["x"]]))
    evaluation = evaluate(spec, X, Y, Y, predictions, interval=training.interval)
    assert evaluation.metrics["interval_width"] == pytest.approx(2 * training.interval.quantile)
    passed = {gate.metric: gate.passed for gate in evaluation.gates if gate.gate == "minimum"}
    assert passed == {"r2": True, "interval_coverage": True, "interval_width": True, "neg_interval_width": False}
    with pytest.raises(GateError, match="A gate needs 'interval_coverage' of the model, which was not computed"):
        evaluate(spec, X, Y, Y, predictions)
    with pytest.raises(SpecError, match="'interval_width', and the spec has no interval"):
        spec_of(interval=None, gates=Gates(minimum={"interval_width": 3}))


@pytest.mark.slow
def test_bundle_keeps_the_interval_and_one_of_an_earlier_release_has_none(tmp_path):
    spec = spec_of(time="when")
    training = fit(spec, X[["x"]], Y)
    former = signature_of(spec, training.estimator).to_dict()
    assert "interval" not in former
    assert Signature.from_dict(former).interval is None
    kept = signature_of(spec, training.estimator, interval=training.interval.to_dict())
    rows = X.assign(y=Y)
    facts = {"params": {}, "seed": 0, "data": {}, "python": "", "packages": {}, "evaluation": None}
    bundle = write_bundle(tmp_path / "b", "toy", training.estimator, kept, rows, rows, facts)
    assert read_manifest(bundle.path).signature.interval == training.interval


@pytest.mark.parametrize(
    "broken",
    [
        {"level": 2, "quantile": 1, "rows": 9, "method": "residual"},
        {"level": 0.9, "quantile": -1, "rows": 9, "method": "residual"},
        {"level": 0.9, "quantile": 1, "rows": 9, "method": "lac"},
        {"level": 0.9, "quantile": 1, "rows": 9, "method": "other"},
        {"level": 0.9, "rows": 9, "method": "residual"},
        [0.9],
    ],
)
def test_manifest_with_a_broken_interval_is_refused(tmp_path, broken):
    signature = Signature((Input("x"),), "regression", "y").to_dict()
    manifest = {"format": 2, "name": "toy", "signature": signature, "engine": "sklearn", "identity": "", "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(tmp_path).signature.interval is None
    signature["interval"] = broken
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"'signature\.interval|interval of the method|no interval"):
        read_manifest(tmp_path)


def test_classifier_of_one_probability_has_sets_of_all_labels_where_it_must():
    spec = spec_of("classification", lambda params: DummyClassifier(**params))
    found = fit(spec, X[["x"]], LABELS).interval
    probability = np.tile(LABELS.value_counts(normalize=True).sort_index(), (120, 1))
    sets = found.sets(np.array(["middle"] * 120), probability, ["high", "low", "middle"])
    assert {len(labels) for labels in sets} == {3}
