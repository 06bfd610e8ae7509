"""Rows of one thing: a customer who is new in use is kept apart, a store that comes again is not."""

import numpy as np
import pandas as pd
import pytest

from mlops_nb.data.explore import describe_target
from mlops_nb.data.things import find_things
from mlops_nb.data.time_order import find_time_order


def table(name: str, things: int, rows: int) -> pd.DataFrame:
    """Things of so many rows, with a label and a size of their own."""
    rng = np.random.default_rng(0)
    which = np.repeat(np.arange(things), rows)
    label, size, make = rng.integers(0, 2, things), rng.normal(size=things), rng.integers(0, 6, things)
    found = pd.DataFrame({name: [f"{name}{i:03}" for i in which], "size": size[which], "make": make[which]})
    return found.assign(speed=rng.normal(size=len(which)), y=label[which])


@pytest.mark.parametrize("name", ["customer_id", "model"])
@pytest.mark.parametrize(("things", "rows"), [(100, 4), (40, 20)])
def test_what_has_many_rows_each_comes_again(name, things, rows):
    rows_of_things = table(name, things, rows)
    found = find_things(rows_of_things, describe_target(rows_of_things, "y"))
    assert found.columns == (name,)
    assert found.comes_again == (rows > 10)


def test_text_whose_rows_differ_in_the_target_stays_an_input():
    cars = table("model", 100, 4)
    cars["y"] = cars["size"] + np.random.default_rng(1).normal(0, 0.5, len(cars))
    found = find_things(cars, describe_target(cars, "y"))
    assert {"model", "make"} <= set(found.columns)
    assert not found.is_named


def test_whole_numbers_of_which_one_is_missing_name_things():
    rows = table("customer_id", 100, 4)
    rows["customer_id"] = rows["customer_id"].str[-3:].astype(float)
    rows.loc[0, "customer_id"] = np.nan
    assert find_things(rows, describe_target(rows, "y")).columns == ("customer_id",)
    rows["customer_id"] += 0.5
    assert find_things(rows, describe_target(rows, "y")).columns != ("customer_id",)


def test_date_of_birth_is_no_order_of_time():
    rows = table("customer_id", 100, 4)
    rows["date_of_birth"] = pd.date_range("1950-01-01", periods=len(rows)).strftime("%Y-%m-%d")
    goal = describe_target(rows, "y")
    assert find_time_order(rows, goal) is None
    assert find_time_order(rows.rename(columns={"date_of_birth": "sold_on"}), goal).column == "sold_on"
