"""Look-alikes of public tables are read as a person would read them."""

import pytest

from mlops_nb.data.explore import explore
from mlops_nb.project.table_formats import in_own_formats
from mlops_nb.project.table_source import open_table
from tests.new.lookalikes import LOOKALIKES

LEFT_OUT = {
    "titanic": {"PassengerId", "Ticket", "Cabin"},
    "telco": {"customerID"},
    "house_prices": {"Id", "PoolQC"},
    "airbnb": {"id"},
    "sms": {"Unnamed: 2", "Unnamed: 3", "Unnamed: 4"},
}
NUMBERS = {"telco": {"TotalCharges"}, "play_store": {"Size", "Installs", "Price"}, "house_prices": {"LotFrontage"}}
TIMES = {"airbnb": {"last_review"}, "play_store": {"Last Updated"}}
TEXTS = {"titanic": {"Name"}, "airbnb": {"name"}, "play_store": {"App"}, "sms": {"v2"}}
SCORERS = {"house_prices": "r2", "insurance": "r2", "airbnb": "r2", "play_store": "r2", "fraud": "average_precision"}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOOKALIKES)
def test_columns_of_a_look_alike_are_what_a_person_sees_in_them(name, tmp_path):
    given = LOOKALIKES[name](tmp_path, 8000 if name == "fraud" else 600)
    header = False if name == "german_credit" else None
    table = in_own_formats(open_table(str(tmp_path / given.data), header=header)).frame
    summary = explore(table, given.target)
    assert {c.name for c in summary.columns if c.exclusion_reason} == LEFT_OUT.get(name, set())
    assert NUMBERS.get(name, set()) <= set(summary.named("number", "whole number"))
    assert TIMES.get(name, set()) == set(summary.named("time"))
    assert TEXTS.get(name, set()) == set(summary.named("text"))
    assert summary.target.scorer == SCORERS.get(name, "roc_auc")
