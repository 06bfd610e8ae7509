"""Columns that number the rows are no input; what grows with time has no upper limit."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.data.column_summary import describe_column
from mlops_nb.data.counters import id_reason
from mlops_nb.data.explore import explore
from mlops_nb.errors import DataError
from mlops_nb.project.spec_code import schema_code

RNG = np.random.default_rng(0)


@pytest.mark.slow
@given(st.lists(st.integers(1, 10), min_size=30, max_size=200), st.booleans(), st.integers(-1000, 1000))
def test_whole_numbers_that_change_in_one_direction_by_small_steps_number_the_rows(steps, falls, first):
    numbers = pd.Series(np.cumsum([5000 + first, *steps])[:: -1 if falls else 1], name="n")
    assert "numbers the rows" in id_reason(numbers)
    assert "numbers the rows" in id_reason(numbers.astype(float))


@pytest.mark.parametrize("name", ["Unnamed: 0", "", "Order", "PID", "index", "customerID", "account nr", "uuid"])
def test_unique_numbers_with_such_a_name_are_an_id_in_any_order(name):
    numbers = pd.Series(RNG.permutation(60) * 977 + 5000, name=name)
    assert describe_column(numbers).exclusion_reason == "it numbers the rows"


@pytest.mark.parametrize(
    "values",
    [
        range(1950, 2020),  # years
        np.sort(RNG.normal(size=60)),  # sorted by a measurement
        np.arange(60) * 1000 + RNG.integers(0, 900, 60),  # great steps
        np.repeat(range(30), 2),  # each number twice
    ],
)
def test_quantities_and_years_in_order_are_no_ids(values):
    assert describe_column(pd.Series(values, name="x")).exclusion_reason == ""


@pytest.mark.parametrize("repeats", [1, 3])
def test_hashes_are_ids_even_where_rows_share_them(repeats):
    hashes = pd.Series([f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" for i in range(1, 41)] * repeats)
    assert "an id" in describe_column(hashes.rename("h")).exclusion_reason


def test_float_with_the_digits_of_an_id_is_one():
    ids = pd.Series(RNG.integers(10**15, 10**17, 60).astype(float), name="account")
    assert "16 digits" in describe_column(ids).exclusion_reason


def rows(n=300):
    return pd.DataFrame({"": range(0, 2 * n, 2), "year": np.sort(RNG.integers(1990, 2025, n)), "y": RNG.normal(size=n)})


def test_what_grows_with_time_has_no_upper_limit():
    code = schema_code(explore(rows(), "y"))
    assert "'year': pa.Column(\"Int64\", pa.Check.ge(" in code
    split = rows().assign(day=lambda t: t[""] * 1.0).drop(columns="")
    of_time = schema_code(explore(split.astype({"day": int}), "y", time="day"))
    assert "'day': pa.Column(\"Int64\", pa.Check.ge(0), nullable=False)" in of_time


def test_counter_that_goes_with_the_target_is_left_out_with_a_word_about_time():
    trend = rows().assign(y=lambda t: t[""] / 50 + t["y"])
    counter = explore(trend, "y").columns[0]
    assert "numbers the rows" in counter.exclusion_reason
    assert "say --time ''" in counter.exclusion_reason
    assert "--time" not in explore(rows(), "y").columns[0].exclusion_reason


def test_kept_column_is_used_and_one_that_no_model_takes_is_refused():
    assert explore(rows(), "y", keep=[""]).used[0].name == ""
    with pytest.raises(DataError, match="Cannot keep 'one': it is 1 in every row"):
        explore(rows().assign(one=1), "y", keep=["one"])
    with pytest.raises(DataError, match=r"no column 'yeah' beside the target\. Did you mean 'year'"):
        explore(rows(), "y", keep=["yeah"])
