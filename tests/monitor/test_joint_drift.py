"""The test of all columns together: its error rate, what it finds, and how it is part of a check."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from mlops_nb.model.profile import profile_numbers
from mlops_nb.monitor import health
from mlops_nb.monitor.alerts import list_alerts
from mlops_nb.monitor.false_alerts import BUDGET_SHARES, DAYS_PER_YEAR, AlertBudget
from mlops_nb.monitor.health import monitor
from mlops_nb.monitor.joint_drift import JOINT_SUBJECT, measure_joint_drift
from tests.monitor.test_health import NOW, Watched

BUDGET = AlertBudget(1e-5, 0.0)


@pytest.fixture
def alone(tmp_path):
    made = Watched(tmp_path, f"sqlite:///{tmp_path}/mlops.db")
    yield made
    made.close()


def draw(rng, n, correlation=0.0, columns=2):
    rows = rng.normal(size=(n, columns))
    rows[:, 1] = correlation * rows[:, 0] + np.sqrt(1 - correlation**2) * rows[:, 1]
    return pd.DataFrame(rows, columns=list("abcdefghij")[:columns])


def profiles_of(frame):
    return {name: profile_numbers(frame[name].to_numpy()) for name in frame}


@pytest.mark.slow
def test_p_values_without_drift_are_not_small():
    rng = np.random.default_rng(0)
    reference = draw(rng, 300)
    found = [
        measure_joint_drift(profiles_of(reference), reference, draw(rng, 300), BUDGET, NOW).p_value for _ in range(8)
    ]
    assert sum(p <= 0.1 for p in found) <= 3
    assert min(found) > 1e-3


@pytest.mark.slow
def test_correlation_that_changes_its_sign_is_found_in_fewer_than_3000_rows_of_the_new_world():
    rng = np.random.default_rng(1)
    reference = draw(rng, 5000, 0.8, columns=10)
    window = pd.concat([draw(rng, 1500, 0.8, columns=10), draw(rng, 500, -0.8, columns=10)], ignore_index=True)
    result = measure_joint_drift(profiles_of(reference), reference, window, BUDGET, NOW)
    assert result.drifted
    assert sorted(result.pairs[0]) == ["a", "b"]


@pytest.mark.slow
def test_check_tests_columns_together_once_an_hour_and_only_where_no_column_drifts(alone, monkeypatch):
    rng = np.random.default_rng(2)
    monkeypatch.setattr(health, "_reference_rows", lambda *_: draw(rng, 2000, 0.8))
    alone.serve()
    first = alone.look()
    assert [(f.kind, f.subject) for f in first.findings] == [("drift", JOINT_SUBJECT)]
    assert first.joint_drift.budget.level == pytest.approx(0.5 * BUDGET_SHARES[JOINT_SUBJECT] / DAYS_PER_YEAR)
    soon = monitor("toy", alone.settings, now=NOW + timedelta(minutes=1))
    assert soon.joint_drift == first.joint_drift
    assert JOINT_SUBJECT in {a.subject for a in list_alerts(alone.registry.engine, "toy")}, "it stays open"
    monkeypatch.setattr(health, "_reference_rows", lambda *_: draw(rng, 2000))
    later = monitor("toy", alone.settings, now=NOW + timedelta(hours=2))
    assert later.findings == []
    assert list_alerts(alone.registry.engine, "toy") == []


@pytest.mark.slow
def test_snapshot_that_cannot_be_read_is_said_and_decides_nothing(alone):
    alone.serve()
    result = alone.look()
    assert result.joint_drift.drifted is None
    assert "the rows of the reference cannot be read" in result.joint_drift.reason
    assert result.status == "healthy"
    assert result.joint_drift.budget.level == 0
