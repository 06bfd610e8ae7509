"""Text tables: open quotes, trailing separators, missing headers, rows of another length."""

import csv
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.data.dialect import csv_dialect, lacks_header, rows_lack_header
from mlops_nb.data.quotes import check_quotes
from mlops_nb.data.tables import load_table, read_table
from mlops_nb.data.text_table import count_missing_words
from mlops_nb.errors import DataError

settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=300)
settings.load_profile("same")


def write(folder, text, name="table.csv"):
    (folder / name).write_bytes(text.encode())
    return folder / name


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a,b\n1,"x\n2,y\n', 2),
        ('a,b\n1,x\n2,"y', 3),
        ('a,b\n"1\n1","x\n2,y\n', 3),
        ('"a,b\n1,x\n', 1),
        ("a,b\n" + "1,x\n" * 3000 + '1,"x\n' + "1,x\n" * 30_000, 3002),
        ('a,b\n5" pipe,"x\n6 pipe,y\n', 2),
    ],
)
def test_table_that_ends_inside_quotes_is_refused_with_the_line_where_they_open(text, line, tmp_path):
    for name in ("table.csv", "table.tsv"):
        source = write(tmp_path, text.replace(",", "\t") if name.endswith("tsv") else text, name)
        with pytest.raises(DataError, match=rf"Cannot read .*: line {line} opens a quote that is never closed"):
            load_table(str(source))


@pytest.mark.slow
@given(text=st.text(alphabet='",a\n', max_size=30))
def test_quote_is_open_or_has_text_behind_it_where_the_strict_reader_of_python_says_so(text):
    try:
        check_quotes(io.StringIO(text, newline="\n"))
        found = "right"
    except DataError as e:
        found = "open" if "opens a quote that is never closed" in str(e) else "text behind it"
    try:
        list(csv.reader(io.StringIO(text, newline="\n"), strict=True))
        expected = "right"
    except csv.Error as e:
        expected = "open" if "unexpected end" in str(e) else "text behind it"
    assert found == expected


@pytest.mark.parametrize("header", ["num,label,kind", "num,label,kind,"])
def test_separator_behind_the_last_value_shifts_no_column(header, tmp_path):
    table = read_table(write(tmp_path, f"{header}\n7,y,a,\n8,n,b,\n9,,c,\n"))
    assert list(table) == ["num", "label", "kind"]
    assert table["num"].tolist() == [7, 8, 9]
    assert table["kind"].tolist() == ["a", "b", "c"]
    assert table["label"].tolist()[:2] == ["y", "n"]


def test_value_behind_the_trailing_separator_is_not_lost_in_silence(tmp_path):
    rows = "".join(f"{i},y,a,\n" for i in range(2000))
    with pytest.raises(DataError, match="row 2000: the row has 4 values, the table has 3 columns"):
        read_table(write(tmp_path, f"num,label,kind\n{rows}7,y,a,lost\n"))


@pytest.mark.parametrize("row", ["1", "1,2,3"])
def test_row_of_another_length_is_refused_by_its_number(row, tmp_path):
    with pytest.raises(DataError, match=rf"row 1: the row has {row.count(',') + 1} values, the table has 2 columns"):
        read_table(write(tmp_path, f"a,b\n1,2\n\n{row}\n3,4\n"))


NO_HEADER = "".join(f"{'spam' if i % 5 == 0 else 'ham'}\tmessage {i}\n" for i in range(200))


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        (NO_HEADER, True),
        ("label\ttext\n" + NO_HEADER, False),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n4.7,3.2,virginica\n4.6,3.1,setosa\n", True),
        ("country,2019,2020,2021\nCH,1,2,3\nDE,4,5,6\nAT,7,8,9\n", False),
        ("region,2020\nCH,1\nDE,4\nAT,7\n", False),
        ("a,b\nx,y\nx,y\nz,y\n", False),
        (",age\n0,41\n1,29\n2,55\n", False),
        ("a,b\n", False),
    ],
)
def test_first_line_that_looks_like_the_others_is_no_header(text, lacking, tmp_path):
    assert lacks_header(write(tmp_path, text)) == lacking


def test_columns_without_a_header_are_numbered(tmp_path):
    table = read_table(write(tmp_path, NO_HEADER, "no_header.tsv"), header=False)
    assert list(table) == ["column_1", "column_2"]
    assert len(table) == 200
    assert table["column_1"].tolist()[:2] == ["spam", "ham"]


def test_missing_header_is_named_where_a_column_of_the_schema_is_missing(tmp_path):
    import pandera.pandas as pa

    schema = pa.DataFrameSchema({"label": pa.Column(str)})
    with pytest.raises(DataError, match=r"Column 'label' is missing in .*: it seems to have no header"):
        load_table(str(write(tmp_path, NO_HEADER, "no_header.tsv")), schema=schema)


def test_columns_of_one_name_are_refused_and_those_without_a_name_are_numbered(tmp_path):
    with pytest.raises(DataError, match="There are 2 columns of the name 'a'"):
        read_table(write(tmp_path, "a,a\n1,2\n"))
    assert list(read_table(write(tmp_path, ",a\n1,2\n"))) == ["Unnamed: 0", "a"]


def test_texts_of_a_schema_stay_texts_and_others_become_values(tmp_path):
    import pandera.pandas as pa

    schema = pa.DataFrameSchema({"id": pa.Column(str), "n": pa.Column(int)})
    table = load_table(str(write(tmp_path, "id,n,yes\n007,1,TRUE\n1.0,2,false\n")), schema=schema)
    assert table["id"].tolist() == ["007", "1.0"]
    assert table["n"].dtype == np.int64
    assert table["yes"].tolist() == [True, False]


def test_numbers_of_many_digits_are_not_rounded(tmp_path):
    table = read_table(write(tmp_path, "a,b\n9007199254740993,18446744073709551616\n1,2\n"))
    assert table["a"].tolist() == [9007199254740993, 1]
    assert table["b"].tolist() == ["18446744073709551616", "2"]


def test_detection_of_a_dialect_survives_an_open_quote(tmp_path):
    assert csv_dialect(write(tmp_path, 'a,b\n1,"x\n' + "1,x\n" * 60_000))["sep"] == ","
    assert not rows_lack_header([])


@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "in quotes"])
def test_large_file_is_read_without_a_copy_for_each_step(quote, tmp_path):
    row = f"{quote}{'word ' * 8}{quote},1\n"
    file = tmp_path / "large.csv"
    file.write_text("text,number\n" + row * 20_000)
    count_missing_words(str(file), ["text"])  # what is imported once is not counted
    tracemalloc.start()
    try:
        assert count_missing_words(str(file), ["text"]) == {}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3.5 * file.stat().st_size, "the text, its rows, and their bytes"
