"""The simulated year of the benchmark leaves out only windows that production would not alert on."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated_year import (
    CODES,
    REFERENCE,
    TABLES,
    Screen,
    drift_alerts,
    error_alerts,
    level_of,
    performance_alerts,
    screened,
)
from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.monitor.false_alerts import BUDGET_SHARES, DAYS_PER_YEAR, measure_newest, window_sizes

WINDOW = 1000


@pytest.mark.parametrize("name", ["number0", "gaps", "yes1", "five"])
def test_windows_that_the_screen_leaves_out_raise_no_alert(name):
    rng, table, level = np.random.default_rng(1), TABLES[name], 0.004
    reference = table[rng.integers(CODES, size=REFERENCE)]
    profile = profile_numbers(reference) if table.dtype == float else profile_values(reference)
    stream = rng.integers(CODES, size=4000, dtype=np.uint16)
    stream[2000:2400] //= 8  # a change, so that some windows are found
    sizes = window_sizes(WINDOW)
    found = list(screened(Screen(table, profile), stream, sizes, level / len(sizes)))
    alerts = set()
    for end in range(WINDOW, len(stream), 97):
        rows = pd.DataFrame({"x": table[stream[end - WINDOW : end]]})
        if measure_newest({"inputs": {"x": profile}}, rows, None, level).drifting:
            alerts.add(end)
            assert any(first <= end <= last for _, first, last in found), end
    assert alerts


def most(kind, per_year, days, models):
    """Three standard deviations more alerts than the budget allows on average."""
    expected = BUDGET_SHARES[kind] * per_year * days / DAYS_PER_YEAR * models
    return expected + 3 * np.sqrt(expected)


@pytest.mark.parametrize("every", [1, 60, 1440])
def test_alerts_of_a_simulated_month_are_within_the_budget_whatever_the_interval(every):
    assert drift_alerts(1000, 30, 100, seed=0, every=every) <= most("drift", 100, 30, 1)
    assert sum(error_alerts(1000, 30, 100, seed, every) for seed in range(5)) <= most("service", 100, 30, 5)
    found = sum(performance_alerts(1000, 30, 100, seed, every) for seed in range(5))
    assert found <= most("performance", 100, 30, 5)


@pytest.mark.parametrize("every", [1, 60, 1440])
def test_checks_of_a_year_spend_the_budget_whatever_the_interval(every):
    assert level_of("drift", 1.0, every) * DAYS_PER_YEAR * 1440 / every == pytest.approx(BUDGET_SHARES["drift"])


def test_accuracy_that_falls_in_the_simulated_month_is_found():
    assert [performance_alerts(1000, 30, 1.0, seed, now=0.8) for seed in range(3)] == [1, 1, 1]
