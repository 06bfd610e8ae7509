"""Statistics against other implementations and against simulation."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats

from mlops_nb.model.statistics import (
    benjamini_hochberg,
    chi_square,
    exact_interval,
    kolmogorov_smirnov,
    psi,
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
