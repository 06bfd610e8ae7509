"""Sheets of Excel as people make them: read right, or refused with the place and what to do."""

import datetime
import io

import openpyxl
import pandas as pd
import pytest

from mlops_nb.data.column_formats import detect_formats
from mlops_nb.data.column_summary import describe_column
from mlops_nb.data.odd_lines import odd_line
from mlops_nb.data.tables import convert_columns, read_table
from mlops_nb.errors import DataError
from mlops_nb.project.table_source import open_table

ROWS = [
    [41, "Bern", 0.95],
    [29, "Basel", 0.5],
    [67, "Genf", 0.25],
    [30, "Chur", 0.1],
    [31, "Bern", 0.2],
    [32, "Thun", 0],
]
NAMES = ["age", " city ", "share"]


def book(lines: list[list], merge: tuple[str, ...] = (), formats: dict[int, str] | None = None, **sheets) -> bytes:
    made = openpyxl.Workbook()
    for line in lines:
        made.active.append(line)
    for cells in merge:
        made.active.merge_cells(cells)
    for column, form in (formats or {}).items():
        for row in made.active.iter_rows(min_col=column, max_col=column):
            row[0].number_format = form
    for name, rows in sheets.items():
        sheet = made.create_sheet(name)
        for row in rows:
            sheet.append(row)
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


@pytest.fixture
def read(tmp_path):
    def read(*args, **options) -> pd.DataFrame:
        (tmp_path / "t.xlsx").write_bytes(book(*args, **options))
        return read_table(tmp_path / "t.xlsx")

    return read


TITLES = [[], [["Customers 2024"]], [["Customers"], [], ["as of May"], []], [[None, None, "confidential"]]]


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("merged", [True, False])
def test_title_is_passed_over_and_the_same_table_is_read(title, merged, read, tmp_path):
    merge = ("A1:C1",) if merged and title and title[0][0] else ()
    table = read([*title, NAMES, *ROWS], merge=merge, formats={3: "0%"}, Notes=[["who", "what"], ["me", 1]])
    assert table.columns.tolist() == ["age", "city", "share"]
    assert table.to_numpy().tolist() == ROWS, "a percentage of Excel is its value"
    opened = open_table(str(tmp_path / "t.xlsx"))
    assert opened.frame.equals(table)
    assert "not read: 'Notes'" in opened.source.remarks[0]
    assert ("Customers" in opened.source.remarks[0]) == ("Customers" in str(title))


@pytest.mark.parametrize(
    ("lines", "merge", "message"),
    [
        ([NAMES, *ROWS], ("B3:B4",), "1 places in the table are merged cells, B3:B4 first"),
        ([["who", None, "money"], NAMES, *ROWS], ("A1:B1",), "its line 1 has 2 values above the 3 names in line 2"),
        ([["Title"], ["who", None, "money"], NAMES, *ROWS], ("A2:B2",), "its line 2 has 2 values above the 3 names"),
        ([["Title"], *ROWS], (), "its line 2, the first with several values, begins with 41, which is no name"),
        ([["age", None, "share"], *ROWS], ("A1:B1",), "in the names of its columns are merged cells, A1:B1 first"),
    ],
)
def test_groups_and_merged_cells_are_refused(lines, merge, message, read):
    with pytest.raises(DataError) as refused:
        read(lines, merge=merge)
    assert message in str(refused.value), str(refused.value)


def test_blank_column_and_blank_rows_are_none_and_a_footnote_is_named(read):
    table = read([[None, *NAMES], *([None, *row] for row in ROWS), [], [None, "Source: us"]])
    assert table.columns.tolist() == ["age", "city", "share"]
    assert "the last row has one value, 'Source: us', as a footnote" in odd_line(table)


def test_types_of_excel_are_kept_and_mixed_ones_become_texts(read):
    day, clock = datetime.datetime(2024, 5, 31), datetime.time(1, 23, 45)
    lines = [["day", "clock", "rate", "fee", "either"]]
    for n in range(6):
        lines.append([day, clock, "#DIV/0!" if n == 3 else n / 2, n if n else "unknown", day if n else 45_000])
    table = read(lines)
    assert describe_column(table["day"]).kind == "time"
    assert table["clock"].tolist() == ["01:23:45"] * 6
    assert table["either"].tolist() == ["45000", *["2024-05-31 00:00:00"] * 5], "never nanoseconds since 1970"
    dialect, _ = detect_formats(table)
    converted = convert_columns(table, dialect)
    assert converted["rate"].tolist()[:3] == [0, 0.5, 1]
    assert converted["rate"].isna().tolist() == [False] * 3 + [True] + [False] * 2
    assert converted["fee"].tolist()[1:] == [1, 2, 3, 4, 5]
