"""What is decided about a column, and the code that is written for it."""

import numpy as np
import pandas as pd
import pytest

from mlops_nb.data.column_plots import plot_columns
from mlops_nb.data.column_summary import ColumnSummary, describe_column
from mlops_nb.data.dates import date_format
from mlops_nb.data.explore import describe_target, explore
from mlops_nb.errors import DataError
from mlops_nb.project.baseline import compare_estimators
from mlops_nb.project.draft import draft_notebook
from mlops_nb.project.estimator_code import EstimatorKind, estimator_code
from mlops_nb.project.spec_code import allowed_range, gates_code, schema_code
from mlops_nb.project.table_source import TableSource

pytestmark = pytest.mark.usefixtures("scikit_learn_alone")
RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("values", "kind", "excluded"),
    [
        ([1, 2, 3, 7] * 10, "whole number", False),
        ([1.0, None, 3.0, 7.0] * 10, "number", False),
        ([0.5] * 40, "number", True),
        ([True, False] * 20, "boolean", False),
        ([True, None, False, True] * 10, "boolean", False),
        (range(40), "whole number", True),
        (RNG.permutation(40), "whole number", True),
        (RNG.permutation(40) * 977, "whole number", False),
        ([None] * 40, "nothing", True),
        (["red", "green", "blue", "red"] * 10, "category", False),
        ([f"{i:x}-{i * 7:x}" for i in range(1000, 1040)], "id", True),
        ([f"a text of words about item {i}" for i in range(40)], "text", False),
        (["2024-05-31", "2024-06-01", None, "2024-06-02"] * 10, "time", False),
        (["1", "2", "n/a or so", "4"] * 10, "category", False),
        ([{"a": 1}] * 40, "dict", True),
        (pd.date_range("2024-01-01", periods=40), "time", False),
        (pd.to_timedelta(range(40), "h"), "duration", True),
        ([1.0, np.inf] * 20, "number", True),
    ],
)
def test_what_a_column_holds(values, kind, excluded):
    column = describe_column(pd.Series(values, name="x"))
    assert (column.kind, bool(column.exclusion_reason)) == (kind, excluded), column


def test_unique_numbers_with_the_name_of_an_id_are_one():
    numbers = pd.Series(RNG.permutation(40) * 977, name="customer_id")
    assert describe_column(numbers).exclusion_reason == "it numbers the rows"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("31.05.2024", "%d.%m.%Y"),
        ("31/05/2024", "%d/%m/%Y"),
        ("05/31/2024", "%m/%d/%Y"),
        ("31.05.2024 13:30", "%d.%m.%Y %H:%M"),
        ("2024-05-31T13:30:00Z", "ISO8601"),
        ("2024-05-31 13:30:00", "ISO8601"),
        ("May 31, 2024", "%b %d, %Y"),
        ("20 apples", None),
        ("1.5", None),
        ("12345678", None),
    ],
)
def test_date_formats(text, form):
    assert date_format(pd.Series([text] * 3)) == form


def frame(n: int = 300) -> pd.DataFrame:
    table = pd.DataFrame({"size": RNG.uniform(10, 90, n), "city": RNG.choice(["Bonn", "Köln"], n)})
    table["price"] = table["size"] * 9 + RNG.normal(0, 200, n)
    return table


def test_copy_of_the_target_in_another_unit_is_pointed_out_and_not_used():
    summary = explore(frame().assign(gross=lambda t: t["price"] * 1.19 + 3), "price")
    assert [c.name for c in summary.columns if "perfectly" in c.exclusion_reason] == ["gross"]


def test_copy_of_the_target_with_gaps_is_left_out():
    price = pd.Series(RNG.lognormal(3, 1, 300))
    table = pd.DataFrame({"x": RNG.normal(size=300), "third": (price / 3).where(RNG.random(300) > 0.2), "price": price})
    columns = {c.name: c for c in explore(table, "price").columns}
    assert "where it is present, alone it predicts 'price' (almost) perfectly" in columns["third"].exclusion_reason
    assert columns["x"].exclusion_reason == ""
    rows = table.assign(dear=price > price.median(), third=table["third"].where(price > 5)).drop(columns="price")
    assert "perfectly" in explore(rows, "dear").columns[1].exclusion_reason


def test_column_that_is_only_there_afterwards_is_a_leak():
    table = frame().assign(sold=lambda t: np.where(t["price"] > 400, "yes", "no"))
    table["buyer"] = np.where(table["sold"] == "yes", RNG.choice(["Ann", "Bob"], len(table)), None)
    summary = explore(table.drop(columns=["price", "size"]), "sold")
    assert [c.name for c in summary.columns if "perfectly" in c.exclusion_reason] == ["buyer"]


def test_leak_is_seen_in_a_table_that_is_sorted_by_the_target():
    table = frame().assign(leak=lambda t: np.exp(t["price"] / 100)).drop(columns="size")
    for rows in (table, table.sort_values("price")):
        assert [c.name for c in explore(rows, "price").columns if "perfectly" in c.exclusion_reason] == ["leak"]


NAMES = ["a b", "a'b", 'a"b', "a\\b", "a|b", "a`b", "größe", "1st", "a\nb", "class", "x" * 150]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["price", "kind of a\nb", """kind of 'a"b\\`"""])
def test_any_column_name_gives_a_notebook_that_compiles(target):
    table = frame(120).assign(**{name: RNG.uniform(0, 1, 120) for name in NAMES})
    table = table.assign(
        **{name: RNG.choice(["u'v", 'w"x'], 120) for name in {*map("kind of {}".format, NAMES), target}}
    )
    table["price"] = table["size"] * 9
    table.loc[::7, NAMES] = np.nan
    summary = explore(table.drop(columns="size"), target)
    comparison = compare_estimators(summary, table)
    script = draft_notebook("m", TableSource("read()", ("from somewhere import read",), "words"), summary, comparison)
    cells = [c for c in script.split("\n\n# %%") if "[markdown]" not in c.splitlines()[0]]
    for cell in cells:
        code = "\n".join(line for line in cell.splitlines()[1:] if not line.startswith("%"))
        compile(code, "cell", "exec")
    names = {}
    schema = schema_code(summary).replace("schema = ", "", 1)
    exec(f"import pandera.pandas as pa\nschema = {schema}", names)
    names["schema"].validate(table)


@pytest.mark.slow
def test_boosted_trees_are_taken_where_a_line_cannot_bend():
    table = pd.DataFrame({"a": RNG.uniform(-3, 3, 600), "b": RNG.uniform(-3, 3, 600)})
    table["y"] = np.sin(2 * table["a"]) * table["b"]
    summary = explore(table, "y")
    comparison = compare_estimators(summary, table)
    assert comparison.chosen.has_trees
    assert comparison.scores[EstimatorKind.TREES][0] > 0.5 > comparison.scores[EstimatorKind.LINEAR][0]
    assert "HistGradientBoostingRegressor(**(" in estimator_code(summary, EstimatorKind.TREES)[0]


@pytest.mark.slow
def test_table_without_a_relation_gets_a_gate_that_noise_does_not_pass_and_says_so():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.uniform(size=400), "y": rng.integers(0, 2, 400)})
    summary = explore(table, "y")
    comparison = compare_estimators(summary, table)
    script = draft_notebook("m", TableSource("read()", (), ""), summary, comparison)
    assert not comparison.is_useful
    assert "over_baseline=0.2" in gates_code(summary, comparison)
    assert "nothing beat the baseline" in script


@pytest.mark.parametrize("low", [-1e6, -0.5, 0, 0.001, 5, 1e9])
@pytest.mark.parametrize("width", [0, 1e-6, 3, 1e7])
def test_limits_hold_what_was_seen_and_half_of_the_width_more(low, width):
    column = ColumnSummary("x", "number", 0, 9, "", low=float(low), high=float(low + width))
    least, most = allowed_range(column)
    assert least <= low
    assert most >= low + 1.5 * width
    assert low < 0 or least >= 0


def test_rows_without_target_and_rare_classes_are_left_out():
    table = pd.DataFrame({"x": RNG.normal(size=103), "y": ["a", "b"] * 50 + ["rare", None, None]})
    target = describe_target(table, "y")
    assert (target.missing, target.rare, target.classes) == (2, ("rare",), ("a", "b"))
    assert explore(table, "y").rows == 100


@pytest.mark.slow
@pytest.mark.parametrize("target", ["price", "city"])
def test_every_column_has_a_plot(target):
    table = frame().assign(note=[f"about item number {i}" for i in range(300)], at=pd.date_range("2024", periods=300))
    figure = plot_columns(table, target)
    drawn = [a for a in figure.axes if a.get_visible()]
    assert [a.get_title() for a in drawn] == [c for c in table.columns if c != target]
    assert all(a.has_data() for a in drawn)


@pytest.mark.slow
def test_trend_and_weekday_of_a_series_are_found():
    day = np.arange(800)
    table = pd.DataFrame({"date": pd.date_range("2022-01-01", periods=800).strftime("%d/%m/%Y")})
    noise = np.random.default_rng(0).normal(0, 4, 800)  # the same whatever ran before
    table["sold"] = 100 + 20 * (day % 7 == 5) + 0.05 * day + noise
    summary = explore(table, "sold", time="date")
    comparison = compare_estimators(summary, table)
    assert comparison.chosen == EstimatorKind.LINEAR
    assert comparison.scores[EstimatorKind.LINEAR][0] > 0.7
    assert comparison.baseline_score < 0
    assert 'DateParts(("month", "weekday"))' in estimator_code(summary, EstimatorKind.LINEAR)[0].replace("'", '"')
    table["at"] = pd.date_range("2022-01-01", periods=800, freq="h")
    assert '"hour"' in estimator_code(explore(table, "sold", time="at"), EstimatorKind.TREES)[0].replace("'", '"')


@pytest.mark.slow
def test_boolean_target_with_blanks_is_one(tmp_path):
    from mlops_nb.data.tables import read_table

    table = frame().assign(dear=lambda t: np.where(t["price"] > 400, "True", "False"))
    table.loc[::9, "dear"] = ""
    table.to_csv(tmp_path / "dear.csv", index=False)
    table = read_table(tmp_path / "dear.csv").drop(columns="price")
    summary = explore(table, "dear")
    assert set(summary.target.classes) == {True, False}
    assert summary.target.missing == len(table.iloc[::9])
    assert compare_estimators(summary, table).gain > 0.2
    names = {}
    exec(f"import pandera.pandas as pa\n{schema_code(summary)}", names)
    assert names["schema"].validate(table.dropna(subset=["dear"]))["dear"].dtype == bool


def test_infinite_target_is_refused():
    table = frame()
    table.loc[:1, "price"] = np.inf
    with pytest.raises(DataError, match=r"The target 'price' is infinite in 2 row\(s\)"):
        explore(table, "price")


def test_class_that_is_only_in_the_newest_rows_is_one_clear_error():
    table = frame().assign(day=range(300), fails=[0] * 270 + [1] * 30)
    with pytest.raises(DataError, match="In the 240 oldest rows by 'day', 'fails' is always 0: "):
        compare_estimators(explore(table, "fails", time="day"), table)


def test_whole_numbers_beyond_int64_are_drafted_as_numbers():
    table = frame().assign(hash=np.tile(RNG.integers(0, 2**64, 150, dtype="uint64"), 2)).drop(columns="size")
    summary = explore(table, "price")
    assert next(c for c in summary.columns if c.name == "hash").kind == "number"
    names = {}
    exec(f"import pandera.pandas as pa\n{schema_code(summary)}", names)
    assert names["schema"].validate(table)["hash"].dtype == float
