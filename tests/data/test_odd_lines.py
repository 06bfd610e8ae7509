"""Lines of a table that are no rows are found, and no others; row numbers without a name are a column."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.batch.sources import open_source
from mlops_nb.data.column_summary import describe_column
from mlops_nb.data.explore import describe_target
from mlops_nb.data.odd_lines import odd_line
from mlops_nb.data.tables import read_table
from mlops_nb.errors import DataError
from mlops_nb.project.scaffold import left_out_rows

few = settings(derandomize=True, deadline=None, database=None, max_examples=30)
ROWS = st.lists(
    st.tuples(st.integers(-999, 999), st.integers(1, 9999), st.sampled_from(["red", "blue", "mean streets"])),
    min_size=8,
    max_size=20,
)


def frame(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["n", "w", "kind"])


@pytest.mark.slow
@few
@given(rows=ROWS, texts=st.booleans(), word=st.sampled_from(["free", "unknown", "-", None]))
def test_usual_rows_are_no_odd_lines(rows, texts, word):
    table = frame(rows)
    assert odd_line(table.astype(str) if texts else table) is None
    table = table.astype({"w": object})
    table.loc[0, "w"] = word
    assert odd_line(table) is None, "one word among numbers"


@pytest.mark.slow
@few
@given(rows=ROWS, units=st.sampled_from([("count", "kg"), ("1/min", "m/s"), ("[n]", "[w]")]))
def test_line_of_units_is_found(rows, units):
    table = pd.concat([frame([(*units, "colour")]), frame(rows).astype(str)], ignore_index=True)
    assert f"the first row has '{units[0]}', '{units[1]}' where" in odd_line(table)


@pytest.mark.slow
@few
@given(rows=ROWS.filter(lambda rows: min(frame(rows)[["n", "w"]].nunique()) > 2), word=st.sampled_from(["Total", None]))
def test_line_of_totals_is_found(rows, word):
    table = frame(rows)
    last = frame([(table["n"].sum(), table["w"].sum(), word)])
    assert "as a line of totals" in odd_line(pd.concat([table, last], ignore_index=True))


@pytest.mark.slow
@few
@given(
    rows=ROWS.filter(lambda rows: min(frame(rows)[["n", "w"]].nunique()) > 2),
    word=st.sampled_from(["Total", "Subtotal", "Average", " mean", "Sub-total:"]),
    middle=st.booleans(),
)
def test_rounded_totals_and_means_are_found_also_among_the_rows(rows, word, middle):
    table = frame(rows)
    values = table[["n", "w"]].mean() if word.strip() in ("Average", "mean") else table[["n", "w"]].sum()
    line = frame([(values["n"].round(2), values["w"].round(1), word)])
    parts = [table, line, *([table, line] if middle else [])]
    assert f"has the word {word!r}, as a line of totals" in odd_line(pd.concat(parts, ignore_index=True))


def test_word_for_a_total_that_is_a_category_is_none():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"plan": rng.choice(["Basic", "Total", "Mean"], 200), "n": rng.integers(1, 900, 200)})
    assert odd_line(table) is None
    table.loc[:, "plan"] = "Basic"
    table.loc[70, "plan"] = "Total"
    assert odd_line(table) is None


def test_row_numbers_without_a_name_are_a_column_in_training_and_jobs(tmp_path):
    (tmp_path / "r.csv").write_text("size,kind\n" + "".join(f"{n},{n / 2},a\n" for n in range(1, 9)))
    table = read_table(tmp_path / "r.csv")
    assert table.columns.tolist() == ["Unnamed: 0", "size", "kind"]
    assert table["size"].tolist() == [n / 2 for n in range(1, 9)]
    assert open_source(str(tmp_path / "r.csv"), None, tmp_path, 4).names == table.columns.tolist()
    (tmp_path / "names.csv").write_text("name,age\n" + "Smith, John,34\n" * 9)
    with pytest.raises(DataError, match=r"the table has 2 columns\. The first line is 'name, age'"):
        read_table(tmp_path / "names.csv")


def test_rows_left_out_are_counted():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=60), "y": ["a", "b"] * 25 + ["c"] * 4 + [None] * 6})
    assert [*left_out_rows(table, describe_target(table, "y"))] == [
        "Left out: 6 of 60 rows, which have no `y`.",
        "Left out: 4 row(s) whose `y` is `c`, too few to train and evaluate on.",
    ]


def test_lists_in_a_column_are_no_names():
    lists = [np.array([1, 2]), [3], {"a": 1}]
    assert odd_line(pd.DataFrame({"tags": lists, "kind": ["red", "blue", "red"], "n": [1, 2, 3]})) is None


@pytest.mark.parametrize("place", [0, 1])
def test_a_zero_byte_makes_no_other_encoding(place, tmp_path):
    text = "name,n\n" + "".join(f"{'x' * (i % 3)}{chr(0) if i == 7 else ''}y,{i}\n" for i in range(40))
    (tmp_path / "t.csv").write_text(" " * place + text)
    table = read_table(tmp_path / "t.csv")
    assert table["n"].tolist() == list(range(40))
    (tmp_path / "u.csv").write_bytes(text.replace("\0", "").encode("utf-16-le"))
    assert read_table(tmp_path / "u.csv")["n"].tolist() == list(range(40))


def test_a_target_of_one_value_and_gaps_is_described_as_it_is():
    table = pd.DataFrame({"t": ["X", None] * 20, "n": range(40)})
    with pytest.raises(DataError, match="is 'X' in 20 rows and has no value in 20: write what an empty one means"):
        describe_target(table, "t")


@pytest.mark.parametrize(
    "texts", [["1 4 7", "2 5"], ["a b c d", "e f g"], ["😀 😎 😀", "🎉 😎"], ["* * *", "* * * * *"]]
)
def test_texts_without_words_are_left_out_by_name(texts):
    column = pd.Series([f"{text} {'.' * (i % 40)} {'!' * (i // 40)}" for i, text in enumerate(texts * 60)], name="t")
    described = describe_column(column)
    assert described.kind != "text" or "no words" in described.exclusion_reason
