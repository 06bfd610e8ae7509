"""A month with a weekly pattern raises no alert; the same month with a real shift does."""

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mlops_nb.model.bundle_files import PROFILE, find_problem
from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.model.seasons import with_seasons
from mlops_nb.model.signature import Input, Signature
from mlops_nb.monitor import health
from mlops_nb.monitor.false_alerts import measure_newest, spend_budget
from mlops_nb.monitor.prediction_log import LogWindow

ROWS_A_DAY, EVERY = 300, timedelta(hours=24)


def draw(rng, start, days, shift=0.0):
    """Amounts and shops that differ at the weekend, and a share that is the same on all days."""
    times = pd.Series(pd.date_range(start, periods=days * ROWS_A_DAY, freq=pd.Timedelta(days=1) / ROWS_A_DAY))
    weekend = (times.dt.day_of_week >= 5).to_numpy()
    n = len(times)
    rows = {"amount": rng.normal(size=n) + weekend + shift, "yes": (rng.random(n) < 0.2 + 0.2 * weekend) * 1.0}
    return pd.DataFrame(rows | {"shop": np.where(rng.random(n) < 0.1 + 0.6 * weekend, "web", "town")}), times


def profile_of(rows, times):
    made = {name: (profile_values if name == "shop" else profile_numbers)(rows[name].to_numpy()) for name in rows}
    return {"inputs": {name: with_seasons(p, rows[name], times) for name, p in made.items()}}


def drifting(profile, rows, times, with_times=True):
    """Columns that drift in the checks of a month, each on the rows of the day before it."""
    found, budget = [], spend_budget(1.0)
    for end in range(ROWS_A_DAY, len(rows) + 1, int(ROWS_A_DAY * (EVERY / timedelta(days=1)))):
        budget, day = spend_budget(1.0, EVERY, budget.left), slice(end - ROWS_A_DAY, end)
        level, known = budget.level_of("drift"), times[day] if with_times else None
        report = measure_newest(profile, rows[day], None, level, None, None, known)
        found += [c.name for c in report.drifting]
    return found


@pytest.fixture(scope="module")
def profile():
    return profile_of(*draw(np.random.default_rng(0), "2026-01-05", 12 * 7))


def test_profile_keeps_the_seasons_and_has_the_schema_of_a_bundle(profile):
    assert all(p["seasons"]["factors"] == ["weekday"] for p in profile["inputs"].values())
    assert (
        find_problem({**profile, "output": profile["inputs"]["yes"], "probability": None, "calibration": None}, PROFILE)
        is None
    )


@pytest.mark.slow
def test_month_with_a_weekly_pattern_raises_no_alert(profile):
    month = draw(np.random.default_rng(1), "2026-04-01", 28)
    assert drifting(profile, *month) == []
    assert {"amount", "yes", "shop"} == set(drifting(profile, *month, with_times=False))


@pytest.mark.slow
def test_shift_on_top_of_a_weekly_pattern_is_found(profile):
    month = draw(np.random.default_rng(2), "2026-04-01", 28, shift=0.7)
    assert set(drifting(profile, *month)) == {"amount"}


def test_weekday_that_the_reference_does_not_have_is_compared_with_all_of_it():
    rows, times = draw(np.random.default_rng(3), "2026-01-05", 12 * 7)
    known = times.dt.day_of_week != 6
    profile = profile_of(rows[known], times[known])
    sunday = times.dt.day_of_week == 6
    newest = measure_newest(profile, rows[sunday].head(300), None, 1e-6, times=times[sunday].head(300))
    assert "amount" in [c.name for c in newest.drifting]


@pytest.mark.parametrize("own_times", [False, True])
def test_rows_of_other_days_than_their_predictions_are_no_drift(profile, own_times):
    rows, times = draw(np.random.default_rng(4), "2026-04-01", 28)
    chosen = np.random.default_rng(5).permutation(len(rows))[:1000]
    rows, times = rows.iloc[chosen].reset_index(drop=True), times.iloc[chosen].reset_index(drop=True)
    signature = Signature((Input("amount"),), "regression", "y")
    predictions = pd.DataFrame({"prediction": np.zeros(1000), "at": pd.Timestamp("2026-05-02 12:00", tz="UTC")})
    known = {**profile, "output": profile_numbers(np.zeros(5000)), "probability": None}
    inputs = rows.assign(sold=times) if own_times else rows
    window, given = LogWindow(predictions, inputs), SimpleNamespace(time="sold", drift={})
    found = health._measure_drift(SimpleNamespace(signature=signature), known, window, 1e-4, {}, given)
    assert found.drifting == []
    if not own_times:
        shifted = LogWindow(predictions, rows.assign(amount=rows["amount"] + 2))
        found = health._measure_drift(SimpleNamespace(signature=signature), known, shifted, 1e-4, {}, given)
        assert [c.name for c in found.drifting] == ["amount"]
