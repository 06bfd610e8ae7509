"""Number of false alerts: the bound of the budget, alerts without drift, and alerts that do not flap."""

import re
from datetime import timedelta

import hypothesis
import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import strategies as st

from mlops_nb.errors import SpecError
from mlops_nb.model.profile import profile_numbers, profile_values
from mlops_nb.monitor.false_alerts import DAYS_PER_YEAR, FIRST_DAYS, measure_newest, spend_budget
from mlops_nb.monitor.health_report import latest_health
from mlops_nb.spec import ModelSpec
from tests.monitor.test_health import NOW, SPEC, Watched, make_labelled  # noqa: F401

DAY = timedelta(days=1)


@hypothesis.given(st.lists(st.timedeltas(timedelta(0), timedelta(days=400)), max_size=50), st.floats(0.01, 100))
@hypothesis.settings(derandomize=True, deadline=None, database=None)
def test_checks_at_any_times_spend_at_most_what_accrues(pauses, per_year):
    budget = spend_budget(per_year)
    spent = budget.level
    for pause in pauses:
        budget = spend_budget(per_year, pause, budget.left)
        spent += budget.level
    days = FIRST_DAYS + sum(pauses, timedelta(0)) / DAY
    assert 0 < spent + budget.left <= per_year * days / DAYS_PER_YEAR * (1 + 1e-9)


def draw(rng, n, shift=0.0):
    """Two smooth columns, one of counts, one of names of which some are rare."""
    columns = {"x": rng.normal(shift, 1, n), "z": rng.lognormal(size=n), "count": rng.poisson(1, n).astype(float)}
    return pd.DataFrame(columns | {"name": np.minimum(rng.zipf(2, n), 30).astype(str)})


def profile_of(frame):
    made = {True: profile_numbers, False: profile_values}
    return {"inputs": {name: made[column.dtype == float](column.to_numpy()) for name, column in frame.items()}}


def openings(rng, per_year, every, days, rows_a_day=1000, **change):
    """Alerts that the checks of some days open, each kept open by the sizes of those before."""
    profile = profile_of(draw(rng, 5000))
    stream, per_check = draw(rng, rows_a_day), max(1, round(rows_a_day * (every / DAY)))
    budget, opened, count = spend_budget(per_year), {}, 0
    for _ in range(int(days * DAY / every)):
        stream = pd.concat([stream, draw(rng, per_check, **change)], ignore_index=True).tail(rows_a_day)
        budget = spend_budget(per_year, every, budget.left)
        report = measure_newest(profile, stream, None, budget.level, opened)
        count += sum(c.name not in opened for c in report.drifting)
        opened = {
            c.name: opened.get(c.name, c.effect)
            for c in report.columns
            if c.drifted or (c.name in opened and c.drifted is None)
        }
    return count


@pytest.mark.slow
@pytest.mark.parametrize("every", [timedelta(minutes=30), timedelta(hours=4)])
def test_alerts_without_drift_are_within_the_budget_whatever_the_interval(every):
    days, per_year = 3, 1000  # a budget of some alerts, so that they can be counted
    found = sum(openings(np.random.default_rng(seed), per_year, every, days) for seed in range(2))
    assert found <= 2 * per_year * (days + FIRST_DAYS) / DAYS_PER_YEAR


@pytest.mark.slow
def test_constant_small_shift_opens_one_alert():
    assert openings(np.random.default_rng(0), 1.0, timedelta(hours=1), 5, rows_a_day=10_000, shift=0.15) == 1


@pytest.fixture
def watched(tmp_path):
    made = Watched(tmp_path, f"sqlite:///{tmp_path}/mlops.db")
    yield made
    made.close()


@pytest.mark.slow
def test_each_check_stores_what_it_leaves_of_the_budget(watched):
    levels = [watched.look().budget.level for _ in range(3)]
    assert levels == pytest.approx([0.5 / 365, 0.25 / 365, 0.125 / 365])
    stored = latest_health(watched.registry.engine, "toy", 1)["budget"]
    assert stored == pytest.approx({"level": levels[2], "left": levels[2]})


@pytest.mark.slow
def test_spec_has_a_budget_of_its_own(make_labelled):  # noqa: F811
    watched = make_labelled(text=SPEC.replace("slices=", "false_alerts_per_year=12, slices="))
    assert watched.look().budget.level == pytest.approx(6 / 365)


@pytest.mark.slow
def test_accuracy_that_is_below_at_95_percent_alone_is_inconclusive(make_labelled):  # noqa: F811
    watched = make_labelled()
    watched.serve(n=400, ago=7200)
    watched.label(7200, 7000, wrong=0.06)
    health = watched.look()
    assert [f for f in health.findings if f.kind == "performance"] == []
    assert any("an alert needs more labels" in reason for reason in health.inconclusive)
    assert health.drift.level == health.budget.level / 2


@pytest.mark.slow
def test_alert_stays_open_until_the_rows_are_as_before(watched):
    watched.serve(shift=0.7, ago=7200)
    assert "a" in {f.subject for f in watched.look(rows=1000).findings}
    watched.serve(n=500, shift=0.15, ago=3600)
    assert "a" in {f.subject for f in watched.look(rows=500).findings}
    watched.serve(ago=60)
    assert "a" not in {f.subject for f in watched.look(rows=1000).findings}


@pytest.mark.parametrize(
    ("before", "after", "missing", "drifted"),
    [(0.02, 0.06, 0.0, True), (0.0, 0.02, 0.0, True), (0.5, 0.53, 0.0, False), (0.02, 0.02, 0.04, True)],
)
def test_effect_is_relative_for_rare_values_and_absolute_for_common_ones(before, after, missing, drifted):
    def answers(n, share, missing=0.0):
        values = np.where(np.arange(n) < share * n, "yes", "no").astype(object)
        values[n - round(missing * n) :] = None
        return pd.DataFrame({"answer": np.random.default_rng(0).permutation(values)})

    profile = {"inputs": {"answer": profile_values(answers(5000, before)["answer"].to_numpy())}}
    (column,) = measure_newest(profile, answers(10_000, after, missing), None, 1e-6).columns
    assert column.effect < 0.05
    assert column.drifted is drifted, column.reason
    assert drifted or re.search(
        r"differs by 3.0%, between \d.\d% and \d.\d%, below the threshold of 5.0%", column.reason
    )


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "found"), [("None", False), ("0.9", False), ("0.05", True)])
def test_spec_mutes_a_column_or_has_its_threshold(make_labelled, threshold, found):  # noqa: F811
    watched = make_labelled(text=SPEC.replace("slices=", f'drift={{"a": {threshold}}}, slices='))
    watched.serve(shift=0.7)
    health = watched.look()
    subjects = {f.subject for f in health.findings if f.kind == "drift"}
    assert "prediction" in subjects
    assert ("a" in subjects) is found
    (column,) = [c for c in health.drift.columns if c.name == "a"]
    assert found or re.search("not tested: the spec mutes|below the threshold of 90.0%", column.reason)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"drift": {"c": 0.1}}, r"drift has a threshold for 'c', which is no input"),
        ({"drift": {"a": 5}}, r"The threshold of drift of 'a' must be a share of rows"),
        ({"false_alerts_per_year": 0}, r"false_alerts_per_year must be a number above 0"),
        ({"false_alerts_per_year": float("inf")}, r"above 0 and at most 1,000, such as 1, got inf"),
        ({"drift": "a"}, r"drift must be a mapping such as \{'amount': 0.1\}, got 'a'"),
        ({"drift": None}, r"drift must be a mapping such as .*, got None"),
        ({"slices": ["a"]}, r"slices must be a mapping"),
        ({"gates": None}, r"gates must be Gates\(\.\.\.\), got None"),
        ({"metrics": "recall"}, r"metrics must be a list of texts, such as \['recall'\]"),
        ({"limits": "None known."}, r"limits must be a list of texts"),
    ],
)
def test_invalid_field_of_a_spec_is_one_sentence(fields, problem):
    schema = pa.DataFrameSchema({c: pa.Column() for c in ("a", "y")})
    with pytest.raises(SpecError, match=problem):
        ModelSpec("toy", load="none.csv", target="y", schema=schema, make_estimator=dict, **fields)
