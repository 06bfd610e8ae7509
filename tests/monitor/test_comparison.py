"""The number that gained the largest share of rows is found among all of them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.monitor.comparison import _name_number, compare_column
from mlops_nb.monitor.drift import measure_drift

NUMBERS = st.lists(
    st.one_of(
        st.integers(-3, 3).map(float), st.floats(-9, 9).map(lambda x: round(x, 1)), st.sampled_from([-0.0, np.inf])
    ),
    min_size=1,
    max_size=60,
)
REFERENCE = st.integers(0, 99).map(lambda seed: np.random.default_rng(seed).normal(0, 3, 60).round(seed % 3))


@given(REFERENCE, NUMBERS)
def test_number_that_gained_most_is_the_one_of_a_plain_count(reference, window):
    profile = profile_numbers(pd.Series(reference))
    if "grid" not in profile:  # few different values: all are compared
        return
    compared, _ = compare_column(profile, pd.Series(window))
    found = next(c for c in compared if c.part == "one value")
    values, counts = np.unique(np.array(window) + 0.0, return_counts=True)
    known = [_known(profile, value) for value in values]
    gains = counts / len(window) - np.array(known) / len(reference)
    best = int(gains.argmax())
    assert _name_number(profile, values[best]) in found.sentence
    assert found.histogram["window"][0] == counts[best] / len(window)


def _known(profile: dict, value: float) -> int:
    """The most rows of the reference that can have had a value, one by one."""
    points, below, upto = (profile["grid"][name] for name in ("points", "below", "upto"))
    if value in points:
        i = points.index(value)
        return upto[i] - below[i]
    left = max((upto[i] for i, p in enumerate(points) if p < value), default=0)
    right = min((below[i] for i, p in enumerate(points) if p > value), default=profile["rows"])
    return right - left


WORLDS = {  # column of the reference, column of the window, true effect
    "yes": (lambda rng, n: rng.random(n) < 0.02, lambda rng, n: rng.random(n) < 0.06, 0.04),
    "numbers": (lambda rng, n: rng.normal(size=n), lambda rng, n: rng.normal(0.5, 1, n), 0.1974),
    "counts": (lambda rng, n: rng.poisson(1, n) * 1.0, lambda rng, n: rng.poisson(1, n) * 1.0, 0.0),
    "names": (lambda rng, n: rng.choice(list("abcde"), n), lambda rng, n: rng.choice(list("bcde"), n), 0.2),
}


@pytest.mark.parametrize("world", WORLDS)
def test_interval_of_an_effect_holds_the_truth(world):
    reference, window, truth = WORLDS[world]
    rng, held = np.random.default_rng(0), []
    make = profile_values if world in ("yes", "names") else profile_numbers
    for _ in range(60):
        profile = make(np.asarray(reference(rng, 2000)))
        values, *_ = compare_column(profile, pd.Series(window(rng, 400)))[0]
        low, high = values.interval
        assert 0 <= low <= values.effect + 1e-9
        held.append(low - 1e-3 <= truth <= high)
    assert np.mean(held) >= 0.9, np.mean(held)


def test_interval_of_missing_values_and_of_one_value_is_that_of_their_shares():
    profile = profile_numbers(np.random.default_rng(0).normal(size=5000))
    column = (
        pd.Series(np.random.default_rng(1).normal(size=500)).mask(np.arange(500) < 50).mask(np.arange(500) >= 450, 0.5)
    )
    found = {c.part: c.interval for c in compare_column(profile, column)[0]}
    assert found["missing"] == pytest.approx((0.077, 0.129), abs=0.002)  # 50 of 500
    assert found["one value"] == pytest.approx((0.075, 0.143), abs=0.003)  # 50 of 450, none to 1 % before


@pytest.mark.parametrize(("before", "now"), [(0.0, 0.05), (0.0, 0.02), (0.1, 0.15)])
def test_interval_of_one_value_holds_its_gain_where_the_reference_bounds_its_rows(before, now):
    rng = np.random.default_rng(0)

    def zeros(share, n):
        return np.where(rng.random(n) < share, 0.0, rng.normal(size=n))

    held = []
    for _ in range(60):
        compared, _ = compare_column(profile_numbers(zeros(before, 2000)), pd.Series(zeros(now, 1000)))
        (low, high) = next(c for c in compared if c.part == "one value").interval
        held.append(low <= now - before <= high)
    assert np.mean(held) >= 0.88


def test_effect_of_ids_is_not_called_smaller_than_all_its_tests_allow():
    ids = np.array([f"{i}" for i in range(2000)], dtype=object)
    report = measure_drift(
        {"inputs": {"id": profile_values(ids)}}, pd.DataFrame({"id": [f"x{i}" for i in range(1000)]})
    )
    (column,) = report.columns
    compared, _ = compare_column(profile_values(ids), pd.Series([f"x{i}" for i in range(1000)]))
    assert column.part == "one value"
    assert f"at most {max(c.interval[1] for c in compared):.1%}" in column.reason
    assert max(c.interval[1] for c in compared) > column.interval[1]
