"""The simulated year of the benchmark leaves out only windows that production would not alert on."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated_year import CODES, REFERENCE, TABLES, Screen, drift_alerts, screened
from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.monitor.false_alerts import measure_newest, window_sizes

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


def test_alerts_of_a_simulated_month_are_within_the_budget():
    assert drift_alerts(1000, 30, 100, seed=0) <= 100 / 2 / 12 + 3 * np.sqrt(100 / 2 / 12)
