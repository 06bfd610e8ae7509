"""Columns that give the target together are found; clean tables lose none."""

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

from mlops_nb.data.explore import explore
from mlops_nb.data.leaks import find_leak


def parts(n=2000):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(n, 8)), columns=[f"x{i}" for i in range(8)])
    table["count"] = rng.integers(1, 30, n)
    table["unit"] = rng.lognormal(2, 0.5, n).round(2)
    return table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "columns"),
    [
        (lambda t: t["x0"] + t["x1"], ("x0", "x1")),
        (lambda t: 2 * t["x0"] - t["x5"] + 0.5 * t["x7"], ("x0", "x5", "x7")),
        (lambda t: (t["count"] * t["unit"]).round(1), ("count", "unit")),
        (lambda t: t["unit"] / t["count"], ("count", "unit")),
        (lambda t: t["x2"] * t["x3"], ("x2", "x3")),
        (lambda t: t[["x2", "x6"]].max(axis=1), ("x2", "x6")),
        (lambda t: (t["x0"] > t["x1"]).map({True: "profit", False: "loss"}), ("x0", "x1")),
        (lambda t: (2 * t["x0"] + t["x1"] - t["x2"] > 1).astype(int), ("x0", "x1", "x2")),
    ],
)
def test_smallest_set_that_gives_the_target_is_found(rule, columns):
    table = parts().assign(target=rule)
    leak = find_leak(explore(table, "target"), table)
    assert (leak.columns, leak.score > 0.98) == (columns, True)


def test_parts_with_missing_values_are_found():
    table = parts().assign(target=lambda t: t["x0"] + t["x1"])
    table.loc[::5, "x0"] = np.nan
    assert find_leak(explore(table, "target"), table).columns == ("x0", "x1")


@pytest.mark.slow
@pytest.mark.parametrize("form", [None, "%d.%m.%Y", "%B %d, %Y"])
@pytest.mark.parametrize(
    "rule", [lambda days, hours: days, lambda days, hours: days > 9, lambda days, hours: 24 * days + hours]
)
def test_span_between_two_dates_is_found(form, rule):
    rng = np.random.default_rng(2)
    begin = pd.Timestamp("2023-03-01") + pd.to_timedelta(rng.integers(0, 300, 500), "D")
    days, hours = rng.integers(0, 30, 500), 0 if form else rng.integers(0, 24, 500)
    end = begin + pd.to_timedelta(days, "D") + pd.to_timedelta(hours, "h")
    table = pd.DataFrame({"begin": begin, "end": end, "size": rng.normal(size=500)})
    if form:
        table[["begin", "end"]] = table[["begin", "end"]].apply(lambda dates: dates.dt.strftime(form))
        table.loc[3, "begin"] = None
    table["target"] = rule(days, hours)
    assert find_leak(explore(table, "target"), table).columns == ("begin", "end")


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.3, 1])
@pytest.mark.parametrize("classes", [True, False])
def test_columns_that_are_only_related_are_no_leak(noise, classes):
    table = parts(600)
    table["target"] = table["x0"] + table["x1"] + noise * np.random.default_rng(1).normal(size=600)
    if classes:
        table["target"] = table["target"] > 0
    assert find_leak(explore(table, "target"), table) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iris", "breast_cancer", "digits", "diabetes", "wine"])
def test_clean_tables_lose_no_column(name):
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    summary = explore(frame, "target")
    assert {c.name for c in summary.columns if c.exclusion_reason and c.distinct > 1} == set()
    assert find_leak(summary, frame) is None
