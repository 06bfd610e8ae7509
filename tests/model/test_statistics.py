"""Statistics against other implementations and against simulation."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from mlops_nb.model.evaluate import score
from mlops_nb.model.signature import Predictions
from mlops_nb.model.statistics import (
    benjamini_hochberg,
    bootstrap_interval,
    chi_square,
    exact_interval,
    kolmogorov_smirnov,
    psi,
    subset_scorer,
)

# Tests of two samples


def test_p_values_are_never_too_small_where_nothing_drifted():
    """At a tenth and a hundredth, over 2,000 windows; a tenth more than the level is chance."""
    rng, found = np.random.default_rng(4), []
    for _ in range(20):
        known = np.sort(rng.normal(size=2000))
        points = known[np.linspace(0, 1999, 101).round().astype(int)]
        upto = np.searchsorted(known, points, "right")
        for window in np.sort(rng.normal(size=(100, 500))):
            found.append(kolmogorov_smirnov(upto, np.searchsorted(window, points, "right"), 2000, 500)[1])
    found = np.array(found)
    assert 0.06 < (found <= 0.1).mean() < 0.12
    assert (found <= 0.01).mean() < 0.017


@hypothesis.given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=2, max_size=12))
def test_chi_square_is_a_p_value_and_scipys_where_all_cells_are_common(cells):
    counts = np.array(cells).T
    statistic, p, df = chi_square(counts)
    assert 0 <= p <= 1
    assert df >= 1
    assert np.isfinite(statistic)
    if (counts >= 15).all() and (stats.contingency.expected_freq(counts) >= 5).all():
        truth = stats.chi2_contingency(counts, correction=False)
        assert np.allclose([statistic, p], [truth.statistic, truth.pvalue])


@hypothesis.given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_is_scipys(p_values):
    assert np.allclose(benjamini_hochberg(p_values), stats.false_discovery_control(p_values))


def test_two_rare_cells_are_compared_exactly():
    counts = [[4990, 10], [95, 5]]
    _, p, _ = chi_square(counts)
    assert 0.5 < np.log(p) / np.log(stats.fisher_exact(counts).pvalue) < 1.05


def test_psi_is_symmetric_and_finite_where_a_bin_is_empty():
    counts = np.array([[100, 0, 5], [3, 50, 5]])
    assert np.isfinite(psi(counts))
    assert psi(counts) == pytest.approx(psi(counts[::-1]))


# Intervals


def scores(rng, y):
    """Predictions of 0 and 1 whose scores are one standard deviation apart."""
    yes = 1 / (1 + np.exp(-rng.normal(y)))
    return Predictions((yes > 0.5).astype(int), np.column_stack([1 - yes, yes]), (0, 1))


@hypothesis.given(st.integers(1, 400), st.data())
def test_exact_interval_is_scipys(rows, data):
    right = data.draw(st.integers(0, rows))
    truth = stats.binomtest(right, rows).proportion_ci(0.95, method="exact")
    assert np.allclose(exact_interval(right, rows), [truth.low, truth.high])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_exact_interval_holds_the_truth_in_at_least_95_percent(share):
    right = np.random.default_rng(0).binomial(200, share, 5000)
    inside = {k: (i := exact_interval(k, 200))[0] <= share <= i[1] for k in set(right.tolist())}
    assert np.mean([inside[k] for k in right.tolist()]) >= 0.945


@pytest.mark.slow
def test_bootstrap_interval_holds_the_truth_in_about_95_percent():
    rng, truth, held = np.random.default_rng(0), stats.norm.cdf(1 / np.sqrt(2)), 0
    for _ in range(40):
        y = rng.integers(2, size=200)
        low, high = bootstrap_interval(scores(rng, y), y, "roc_auc")
        held += low <= truth <= high
    assert held >= 35


def test_bootstrap_gives_the_same_interval_for_the_same_seed():
    y = np.random.default_rng(0).integers(2, size=100)
    predictions = scores(np.random.default_rng(1), y)
    assert bootstrap_interval(predictions, y, "roc_auc") == bootstrap_interval(predictions, y, "roc_auc", seed=0)
    assert bootstrap_interval(predictions, y, "roc_auc") != bootstrap_interval(predictions, y, "roc_auc", seed=1)


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
