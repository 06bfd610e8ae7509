"""A backtest fits on the past of each origin and never on what it is measured on."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_absolute_error

from mlops_nb.errors import DataError, SpecError, TrainingError
from mlops_nb.model.backtest import backtest
from mlops_nb.spec import Gates, ModelSpec

COLUMNS = {"day": pa.Column("datetime64[ns]"), "x": pa.Column(float), "y": pa.Column(float)}
SPEC = ModelSpec(
    name="toy",
    load="nowhere.csv",
    target="y",
    schema=pa.DataFrameSchema(COLUMNS),
    make_estimator=lambda params: LinearRegression(**params),
    scorer="neg_mean_absolute_error",
    task="regression",
    time="day",
    interval=0.9,
    gates=Gates(minimum={"interval_coverage": 0.5}),
)


def table(n: int = 120, per_day: int = 1) -> pd.DataFrame:
    """Newest rows first; the relation of x and y changes with time."""
    rng = np.random.default_rng(0)
    days = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(n) // per_day, "D")
    x = rng.normal(size=n)
    rows = pd.DataFrame({"day": days.astype("datetime64[ns]"), "x": x, "y": x * np.arange(n) + rng.normal(size=n)})
    return rows.iloc[::-1].reset_index(drop=True)


def test_each_part_is_predicted_by_a_model_of_the_rows_before():
    rows, found = table(), backtest(SPEC, table(), origins=3)
    assert found["train_rows"].tolist() == [30, 60, 90]
    assert found["test_rows"].tolist() == [30, 30, 30]
    ordered = rows.sort_values("day")
    for i, origin in enumerate(found.index):
        train, test = ordered.iloc[: 30 * (i + 1)], ordered.iloc[30 * (i + 1) : 30 * (i + 2)]
        assert origin == test["day"].iloc[0]
        predicted = LinearRegression().fit(train[["x"]], train["y"]).predict(test[["x"]])
        assert found["neg_mean_absolute_error"].iloc[i] == pytest.approx(-mean_absolute_error(test["y"], predicted))
        mean = np.full(len(test), train["y"].mean())
        assert found["baseline"].iloc[i] == pytest.approx(-mean_absolute_error(test["y"], mean))


def test_rows_of_one_time_are_on_one_side():
    found = backtest(SPEC, table(125, per_day=7), origins=4)
    assert (found["train_rows"] % 7 == 0).all()
    assert found["train_rows"].iloc[0] + found["test_rows"].sum() == 125


def test_detector_without_labels_has_an_alarm_rate_at_each_origin():
    detector = replace(
        SPEC,
        target=None,
        task="anomaly",
        scorer="accuracy",
        interval=None,
        gates=Gates(),
        make_estimator=lambda params: IsolationForest(n_estimators=10),
    )
    found = backtest(detector, table(), origins=2)
    assert found["alarm_rate"].between(0, 1).all()


@pytest.mark.parametrize(
    ("changes", "rows", "origins", "error", "message"),
    [
        ({"time": None}, table(), 3, SpecError, "A backtest needs the times of the rows"),
        ({}, table(), 0, TrainingError, "origins must be a whole number of at least 1"),
        ({}, table(), 2.5, TrainingError, "origins must be a whole number of at least 1"),
        ({}, table(3), 5, DataError, "3 rows of 3 different times cannot be cut at 5 origins"),
        ({}, table(90, per_day=30), 5, DataError, "90 rows of 3 different times cannot be cut at 5 origins"),
        ({}, table(10, per_day=10), 1, DataError, "cannot be cut at 1 origins"),
        ({}, table().assign(day=pd.NaT), 3, DataError, "120 of 120 rows have no 'day'"),
    ],
)
def test_what_cannot_be_backtested_is_said_before_anything_is_fitted(changes, rows, origins, error, message):
    with pytest.raises(error, match=message):
        backtest(replace(SPEC, **changes), rows, origins)
