"""Intervals of metrics: how often they hold the truth, and metrics of subsets against scikit-learn's."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from benchmarks.intervals import coverage_of_errors, coverage_of_labels, draw_labels
from mlops_nb.model.jackknife import jackknife, ranks_of, subset_scorer
from mlops_nb.model.measurement import Measurement, _delong, measure, measure_mean
from mlops_nb.model.scoring import score
from mlops_nb.model.signature import Predictions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "positive", "negative", "apart"),
    [
        ("roc_auc", 20, 180, 0.8),
        ("roc_auc", 20, 180, 1.5),
        ("balanced_accuracy", 20, 180, 1.0),
        ("recall", 20, 180, 1.0),
        ("precision", 60, 140, 1.0),
        ("f1", 60, 140, 1.0),
        ("accuracy", 20, 180, 1.0),
    ],
)
def test_interval_of_labels_holds_the_truth_as_often_as_it_says(metric, positive, negative, apart):
    found = coverage_of_labels(metric, positive, negative, apart, trials=200)
    assert 0.90 <= found <= 0.995, found  # 93 to 98 %, and two standard errors of 200 trials


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "errors", "rows"),
    [
        ("mean_absolute", "Student, 3 df", 200),
        ("root_mean_squared", "normal", 100),
        ("root_mean_squared", "Student, 3 df", 300),  # without a model of the tail 84 %
        ("root_mean_squared", "log-normal, 1", 300),  # without it 87 %
    ],
)
def test_interval_of_errors_with_heavy_tails_holds_the_truth(metric, errors, rows):
    held, _ = coverage_of_errors(f"neg_{metric}_error", errors, rows, trials=150)
    assert 0.90 <= held <= 0.995, held  # 93 to 98 %, and nearly two standard errors of 150 trials


def test_error_that_a_few_rows_make_up_says_that_its_interval_may_be_too_narrow():
    normal = np.random.default_rng(0).normal(size=500)
    plain = measure(Predictions(np.zeros(500)), normal, "neg_root_mean_squared_error")
    normal[0] = 60
    heavy = measure(Predictions(np.zeros(500)), normal, "neg_root_mean_squared_error")
    found = "1 of the 500 rows make half of the squared error: its interval may be too narrow"
    assert (plain.note, heavy.note) == ("", found)
    absolute = measure(Predictions(np.zeros(500)), normal**3, "neg_mean_absolute_error")
    assert absolute.note == "1 of the 500 rows make half of the absolute error: its interval may be too narrow"


def test_squared_error_of_rows_of_the_same_things_has_a_wider_tail_than_that_of_as_many_of_their_own():
    errors, zero = np.random.default_rng(0).standard_t(3, size=600).repeat(2), Predictions(np.zeros(1200))
    alone = measure(zero, errors, "neg_mean_squared_error")
    together = measure(zero, errors, "neg_mean_squared_error", things=np.arange(1200) // 2)
    assert len(together.upper) == len(alone.upper) > 0
    assert together.interval()[0] < alone.interval()[0] < alone.value


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["roc_auc", "balanced_accuracy", "recall", "average_precision", "f1_macro"])
def test_fewer_than_15_rows_of_the_rarest_class_have_no_interval(metric):
    few, enough = (measure(*draw_labels(np.random.default_rng(0), n, 100, 1.0), metric) for n in (14, 15))
    assert (few.is_known, enough.is_known) == (False, True)
    assert few.note == "14 rows of the rarest class, 15 are needed"


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric", ["roc_auc", "balanced_accuracy", "f1", "average_precision", "f1_macro", "matthews_corrcoef"]
)
def test_perfect_predictions_have_an_interval_with_a_width(metric):
    y = np.repeat([1, 0], [20, 80])
    found = measure(Predictions(y, np.column_stack([1 - y, y]), (0, 1), 1), y, metric)
    low, high = found.interval()
    assert (found.value, high) == (1, 1)
    assert 0.5 < low < 0.99


METRICS_OF_ALL = ["roc_auc", "balanced_accuracy", "f1", "recall", "accuracy", "neg_log_loss", "matthews_corrcoef"]


@pytest.mark.slow
@hypothesis.settings(max_examples=20, deadline=None, derandomize=True, database=None)
@hypothesis.given(
    st.sampled_from(METRICS_OF_ALL), st.integers(15, 60), st.integers(15, 60), st.floats(0, 4), st.integers(0, 99)
)
def test_interval_holds_the_value_and_is_wider_at_a_higher_confidence(metric, positive, negative, apart, seed):
    found = measure(*draw_labels(np.random.default_rng(seed), positive, negative, apart), metric)
    if not found.is_known:  # of precision and the like, where hardly any row is predicted positive
        assert found.note
        return
    usual, wide, exact = found.interval(0.9), found.interval(0.99), found.interval(0.9, exact=True)
    assert wide[0] <= usual[0] <= found.value + 1e-9
    assert found.value - 1e-9 <= usual[1] <= wide[1]
    assert exact[0] <= exact[1]
    assert found.difference(found)[0] == pytest.approx(-found.difference(found)[1])


def test_delong_is_the_jackknife_of_the_area():
    predictions, y = draw_labels(np.random.default_rng(0), 60, 80, 1.0)
    value_of = subset_scorer(predictions, "roc_auc")
    ranks, positive = ranks_of(predictions)
    by_row = jackknife(lambda rows: value_of(rows, y[rows]), len(y)).error
    assert _delong(ranks, y == positive)[0] == pytest.approx(by_row, rel=0.02)


def test_mean_over_outputs_has_the_interval_of_rows_that_count_with_all_of_them():
    noise = np.random.default_rng(0).normal(size=(2, 300))
    zero = Predictions(np.zeros(300))
    one = measure(zero, noise[0], "neg_mean_absolute_error")
    same = measure_mean([zero, zero], [noise[0], noise[0]], "neg_mean_absolute_error")
    both = measure_mean([zero, zero], [*noise], "neg_mean_absolute_error")
    assert same.error == pytest.approx(one.error)
    assert both.error == pytest.approx(one.error / np.sqrt(2), rel=0.2)


def test_metric_without_spread_has_no_interval():
    assert not Measurement(-1.0, 100, error=0.0, form="error").is_known
    assert not Measurement(np.nan, 100, right=0).is_known
    assert Measurement(1.0, 100, right=100).is_known


# Metrics of subsets

CLASSES = [(0, 1), ("no", "yes"), (False, True), ("a", "b", "c"), ("only",)]
METRICS = [(classes, metric) for classes in CLASSES for metric in ("accuracy", "balanced_accuracy", "roc_auc")]
METRICS += [(None, metric) for metric in ("neg_mean_absolute_error", "neg_root_mean_squared_error", "r2")]


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "metric"), METRICS)
@hypothesis.settings(max_examples=25, deadline=None)  # the first call imports scikit-learn
@hypothesis.given(st.integers(1, 40), st.integers(1, 9), st.integers(0))
def test_metric_of_many_draws_is_scikit_learns(classes, metric, n, steps, seed):
    rng = np.random.default_rng(seed)
    if classes is None:
        predictions, y = Predictions(rng.normal(size=n)), rng.normal(size=n)
    else:
        probability = rng.integers(1, steps + 1, size=(n, len(classes))).astype(float)  # with ties
        probability /= probability.sum(axis=1, keepdims=True)
        predictions = Predictions(np.array(classes)[probability.argmax(axis=1)], probability, classes)
        y = np.array(classes)[rng.integers(len(classes), size=n)]
    rows = rng.integers(n, size=n)
    wanted = score(predictions.take(rows), y[rows], [metric])[metric]
    assert subset_scorer(predictions, metric)(rows, y[rows]) == pytest.approx(wanted, nan_ok=True)


def test_metric_of_many_draws_is_not_defined_where_scikit_learns_is_not():
    predictions = Predictions(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]), (0, 1))
    assert np.isnan(subset_scorer(predictions, "roc_auc")(np.array([1, 2]), np.array([1, 1])))
    assert subset_scorer(predictions, "roc_auc")(np.array([0, 1]), np.array([0, 1])) == 1
