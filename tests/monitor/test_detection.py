"""Rows of the new world until a check finds a change, at a size that fits CI; benchmarks.monitoring has more."""

import numpy as np
import pytest

from benchmarks.monitoring import CHANGES, least_rows, rows_to_detection, shift_openings


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_change_of_one_column_is_found_within_its_rows(name):
    column, change, most, before, after = CHANGES[name]
    seeds, apart = {"yes10": (21, 0.05), "number0": (7, 0.05), "yes1": (7, 0.05)}.get(
        column, (3, 0.3)
    )  # as they take long
    found = np.median([rows_to_detection(column, change, seed, apart=apart) for seed in range(seeds)])
    assert 7 <= found <= most
    assert least_rows(before, after) < most, "no test could do that"


@pytest.mark.slow
def test_constant_small_shift_opens_at_most_one_alert():
    assert [shift_openings(10_000, 2, 60, seed) for seed in range(2)] == [1, 1]
