"""Performance: how often its intervals hold the truth, and what it says of odd windows."""

import json
from types import SimpleNamespace

import hypothesis
import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import strategies as st

from mlops_nb.errors import DataError
from mlops_nb.model.interval import LAC, Interval
from mlops_nb.model.profile import calibrate
from mlops_nb.model.scoring import score
from mlops_nb.model.signature import Predictions, Signature
from mlops_nb.monitor.estimate import Estimate, calibrated_probability, estimate_performance
from mlops_nb.monitor.label_checks import _least
from mlops_nb.monitor.performance import Performance, measure_coverage, measure_performance
from mlops_nb.monitor.timeseries import _gates
from mlops_nb.spec import Gates, ModelSpec

RELEASE = {
    "metrics": {"accuracy": 0.9},
    "slices": {"all": {"rows": 1000, "accuracy": 0.9}, "even": {"rows": 500, "accuracy": 0.9}},
    "gates": [{"gate": "baseline", "metric": "accuracy", "required": 0.5}],
}


def spec(**facts):
    schema = pa.DataFrameSchema({"x": pa.Column(int), "y": pa.Column(int)})
    usual = {"gates": Gates(minimum={"accuracy": 0.8}), "slices": {"even": lambda X: X["x"] % 2 == 0}}
    return ModelSpec("coin", "coin.csv", "y", schema, make_estimator=dict, **(usual | facts))


def window(n, right):
    """Of n answers these were right."""
    y = np.arange(n) // 2 % 2
    result = np.where(np.arange(n) < right, y, 1 - y)
    return pd.DataFrame({"x": np.arange(n)}), y, Predictions(result, np.eye(2)[result], (0, 1))


def logistic(rng, n, sharpness=1.0, spread=1.5):
    """Answers whose probabilities are right where sharpness is 1."""
    x = rng.normal(0, spread, n)
    truth = (rng.random(n) < 1 / (1 + np.exp(-x))).astype(int)
    yes = 1 / (1 + np.exp(-sharpness * x))
    return Predictions((yes > 0.5).astype(int), np.column_stack([1 - yes, yes]), (0, 1)), truth


# The measure


@pytest.mark.parametrize(
    ("n", "right", "below_gate", "below_release", "worse"),
    [
        (1000, 700, True, True, True),
        (1000, 840, False, True, True),
        (1000, 900, False, None, False),
        (1000, 990, False, False, False),
        (1000, 810, None, True, True),
        (40, 34, None, None, None),
        (3, 3, None, None, None),
    ],
)
def test_gate_and_release_are_decided_only_by_the_whole_interval(n, right, below_gate, below_release, worse):
    found = measure_performance(spec(), *window(n, right), RELEASE)
    overall = found.results[0]
    assert (overall.below_gate, overall.below_release, found.worse) == (below_gate, below_release, worse), overall


@pytest.mark.slow
def test_a_model_that_is_as_good_as_at_release_is_seldom_called_worse():
    """The release value is a sample of its own; without that, 1 in 10 would be."""
    rng, alarms = np.random.default_rng(0), 0
    for _ in range(300):
        then = float(rng.binomial(1000, 0.9) / 1000)
        release = {"metrics": {"accuracy": then}, "slices": {"all": {"rows": 1000, "accuracy": then}}}
        strict = spec(gates=Gates(minimum={"accuracy": 0.5}, tolerance=0.0), slices={})
        alarms += measure_performance(strict, *window(1000, rng.binomial(1000, 0.9)), release).worse is True
    assert alarms <= 0.045 * 300


def test_slices_are_measured_against_their_own_release_and_no_gate():
    found = measure_performance(spec(), *window(400, 300), RELEASE)
    assert [(r.slice, r.rows, r.gate, r.release) for r in found.results] == [
        ("all", 400, 0.8, 0.9), ("even", 200, None, 0.9),
    ]  # fmt: skip


def test_a_baseline_higher_than_the_minimum_is_the_gate():
    release = RELEASE | {"gates": [{"gate": "baseline", "metric": "accuracy", "required": 0.85}]}
    assert measure_performance(spec(), *window(100, 90), release).results[0].gate == 0.85


def test_gate_of_the_interval_is_of_a_release_alone():
    gated = spec(interval=0.9, gates=Gates(minimum={"accuracy": 0.8, "interval_coverage": 0.87}))
    inputs, truth, predictions = window(200, 190)
    release = {"gates": [{"gate": "minimum", "metric": "interval_coverage", "required": 0.87}]}
    assert {r.metric for r in measure_performance(gated, inputs, truth, predictions, release).results} == {"accuracy"}
    bundle = SimpleNamespace(manifest={"evaluation": release})
    assert _least(bundle, gated) == {"accuracy": 0.8}
    assert _gates(bundle.manifest, Signature((), "regression", "y")) == {"neg_mean_absolute_error": None}


def test_window_without_labels_is_inconclusive():
    found = measure_performance(spec(), *window(0, 0), RELEASE)
    assert found.worse is None
    assert found.results[0].reason == "no labelled rows"


def test_metric_that_is_not_defined_on_these_rows_is_inconclusive():
    inputs, _, answer = window(100, 100)
    one_class = measure_performance(spec(gates=Gates(minimum={"roc_auc": 0.6})), inputs, [0] * 100, answer)
    (auc,) = [r for r in one_class.results if r.metric == "roc_auc" and r.slice == "all"]
    assert auc.value is None
    assert auc.below_gate is None
    assert "not defined" in auc.reason


def test_labels_as_json_has_them_are_the_models_classes():
    inputs, y, answer = window(100, 90)
    as_sent = np.array([float(v) if i % 2 else int(v) for i, v in enumerate(y)], dtype=object)
    assert measure_performance(spec(), inputs, as_sent, answer, RELEASE) == measure_performance(
        spec(), inputs, y, answer, RELEASE
    )


def test_label_that_is_no_class_is_named():
    inputs, _, answer = window(3, 3)
    with pytest.raises(DataError, match=r"Label 'edge' is none of the classes .*\['0', '1'\]"):
        measure_performance(spec(), inputs, [0, "edge", 1], answer)


def test_regression_is_measured_with_an_interval():
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    regression = spec(task="regression", scorer="r2", gates=Gates(minimum={"r2": 0.5}))
    found = measure_performance(
        regression, pd.DataFrame({"x": np.arange(200)}), y.tolist(), Predictions(y + rng.normal(size=200) / 4)
    )
    assert found.worse is False
    assert found.results[0].low < found.results[0].value < found.results[0].high


@pytest.mark.slow
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
@hypothesis.given(st.integers(0, 40), st.integers(0, 40))
def test_performance_is_stored_as_plain_json(n, right):
    found = measure_performance(spec(), *window(n, min(n, right)), RELEASE)
    assert Performance.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found
    assert f"{n} labelled rows" in found._repr_html_()


def test_plot_has_a_picture_a_metric_and_a_line_a_slice():
    (axes,) = measure_performance(spec(), *window(400, 300), RELEASE).plot().axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["all (400)", "even (200)"]
    assert len(measure_performance(spec(), *window(0, 0), RELEASE).plot().axes) == 1


# The estimate


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "roc_auc"])
def test_estimate_is_near_the_truth_on_a_window_with_other_inputs(metric):
    """Calibrated on usual rows, estimated on harder ones, of a model that is too sure of itself."""
    rng, errors, at_its_word = np.random.default_rng(0), [], []
    for _ in range(15):
        curves = calibrate(*logistic(rng, 2000, sharpness=2.5))
        answer, truth = logistic(rng, 1000, sharpness=2.5, spread=1.0)
        true = score(answer, truth, [metric])[metric]
        errors.append(estimate_performance(answer, [metric], curves)[0].estimated_value - true)
        at_its_word.append(estimate_performance(answer, [metric])[0].estimated_value - true)
    assert abs(np.mean(errors)) < 0.015
    assert np.abs(errors).max() < 0.08
    assert np.mean(at_its_word) > 0.1


def test_reason_of_an_estimate_names_its_source():
    answer, _ = logistic(np.random.default_rng(0), 200)
    (plain,) = estimate_performance(answer)
    assert "estimated from probabilities that were not calibrated, without labels" in plain.reason
    assert not {"value", "low", "high"} & set(plain.to_dict())
    assert Estimate.from_dict(json.loads(json.dumps(plain.to_dict(), allow_nan=False))) == plain


def test_estimate_is_the_same_for_the_same_seed():
    answer, _ = logistic(np.random.default_rng(0), 100)
    assert estimate_performance(answer) == estimate_performance(answer, seed=0) != estimate_performance(answer, seed=1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Predictions(np.array([1.0, 2.0])), "the model has no probabilities"),
        (Predictions(np.array([]), np.empty((0, 2)), (0, 1)), "the window is empty"),
    ],
)
def test_missing_estimate_has_a_reason(answer, reason):
    (estimate,) = estimate_performance(answer)
    assert estimate.estimated_value is None
    assert reason in estimate.reason


@pytest.mark.slow
@hypothesis.given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=20))
def test_calibrated_probabilities_sum_to_one(rows):
    shares = np.array(rows) + 1e-9
    shares /= shares.sum(axis=1, keepdims=True)
    labels = np.array(["a", "b", "c"])
    curves = calibrate(Predictions(labels[shares.argmax(1)], shares, tuple(labels)), labels[np.arange(len(rows)) % 3])
    worth = calibrated_probability(Predictions(labels[shares.argmax(1)], shares, tuple(labels)), curves)
    assert np.allclose(worth.sum(axis=1), 1)
    assert (worth >= 0).all()


@pytest.mark.parametrize("seed", range(5))
def test_coverage_of_an_interval_is_watched_by_labels(seed):
    rng, n = np.random.default_rng(seed), 400
    given = spec(slices={"first": lambda X: X["a"] < 0})
    inputs, interval = pd.DataFrame({"a": rng.normal(size=n)}), Interval(0.9, 1.645, rows=2000)
    release = {"metrics": {"interval_coverage": 0.9}, "slices": {"all": {"rows": 2000}}}
    for noise, below in ((1.0, False), (2.0, True)):
        truth = rng.normal(scale=noise, size=n)
        whole, first = measure_coverage(given, inputs, truth, Predictions(np.zeros(n)), interval, release)
        assert whole.value == pytest.approx(np.mean(np.abs(truth) <= 1.645))
        assert whole.low < whole.value < whole.high
        assert (whole.below_release is True) is below
        assert (first.slice, first.rows, first.gate) == ("first", int((inputs["a"] < 0).sum()), None)
    (none, _) = measure_coverage(given, inputs.head(0), [], Predictions(np.zeros(0)), interval, release)
    assert (none.value, none.reason) == (None, "no labelled rows")


def test_coverage_of_prediction_sets_counts_the_labels_that_are_in_them():
    probability = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.55, 0.45]])
    predictions = Predictions(probability.argmax(axis=1), probability, (0, 1))
    interval = Interval(0.9, 0.5, rows=100, method=LAC)  # a label with a probability of a half and more
    rows = pd.DataFrame(index=range(4))
    (found,) = measure_coverage(spec(slices={}), rows, [0, 1, 1, 0], predictions, interval)
    assert found.value == 0.75
