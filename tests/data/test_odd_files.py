"""Columns as other programs and countries write them: read right, or kept as text with a remark."""

import pandas as pd
import pytest

from mlops_nb.data.column_summary import describe_column
from mlops_nb.errors import DataError
from mlops_nb.project.table_formats import in_own_formats
from mlops_nb.project.table_source import open_table

READ = {  # texts of a column, and what they are
    "sap": (["1.234,50-", "7,25", "0,00"], [-1234.5, 7.25, 0]),
    "india": (["1,23,456", "12,34,567.50", "9,999"], [123456, 1234567.5, 9999]),
    "rupees": (["\u20b9 1,23,456.00", "\u20b9 99.00", "\u20b9 1,000.00"], [123456, 99, 1000]),
    "france": (["1\u202f234,50\u00a0\u20ac", "7,25\u00a0\u20ac", "12\u202f000,00\u00a0\u20ac"], [1234.5, 7.25, 12000]),
    "switzerland": (["1\u2019234.50", "7.25", "12\u2019000.00"], [1234.5, 7.25, 12000]),
    "thin": (["1\u2009234,50", "7,25", "12\u2009000,00"], [1234.5, 7.25, 12000]),
    "germany": (["1.234,56 \u20ac", "7,25 \u20ac", "-12,00 \u20ac"], [1234.56, 7.25, -12]),
    "percent": (["12 %", "7.5 %", ""], [0.12, 0.075, None]),
    "stata": (["12.5", ".", ".a", "9.75"], [12.5, None, None, 9.75]),
    "minus": (["\u22123.5", "2.5", "1.5"], [-3.5, 2.5, 1.5]),
    "duration": (["1:23:45", "0:02:15", "30:00:00"], [83.75, 2.25, 1800]),
    "units of mass": (["7 g", "30 kg", "2 kg"], [0.007, 30, 2]),
    "detection limit": (["0.66", "<0.05", "0.7"], [0.66, 0.05, 0.7]),
}
KEPT = {  # texts of a column that stay texts, and the remark
    "clock of 24": (["01.01.2024 24:00", "02.01.2024 12:30", "03.01.2024 00:15"], "in a form that is not read"),
    "weekday": (["Mo, 01.01.2024", "Di, 02.01.2024", "Mi, 03.01.2024"], "in a form that is not read"),
    "week": (["2024-W05", "2024-W06", "2024-W07"], "in a form that is not read"),
    "quarter": (["Q1 2024", "Q2 2024", "Q3 2024"], "in a form that is not read"),
    "month": (["lundi 3 janvier 2024", "mardi 4 f\u00e9vrier 2024", "mardi 5 mars 2024"], "in a form that is not read"),
    "place": (["47\u00b022'N", "46\u00b051'N", "47\u00b003'N"], "in a form that is not read"),
    "debit": (["634.36 DR", "439.78 CR", "12.00 DR"], "in a form that is not read"),
    "currencies": (["\u20ac5", "$7", "\u20ac9"], "in a form that is not read"),
    "units": (["7 lb", "30 kg", "2 kg"], "in a form that is not read"),
    "flags": (["924", "339", "77*"], "67% of the values are numbers, others such as '77*'"),
    "formula of Excel": (['="02125"', '="05168"', '="00012"'], "in a form that is not read"),
}
for no, yes in [("nein", "ja"), ("non", "oui"), ("no", "s\u00ed"), ("no", "s\u00ec"), ("FALSCH", "WAHR"), ("N", "Y")]:
    KEPT[yes] = ([yes, no, yes], "")
for code in (
    ["01067", "80331", "10115"],
    ["10.0.0.1", "10.0.0.2", "10.1.0.1"],
    ["10-20", "21-30", "31-40"],
    ["a", "b", "a"],
):
    KEPT[code[0]] = (code, "")


def read(texts: list[str], folder):
    lines = ['"{}"\t{}'.format(text.replace('"', '""'), n) for n, text in enumerate(texts * 3)]
    (folder / "t.tsv").write_text("\n".join(["value\tn", *lines]) + "\n", encoding="utf-8")
    return in_own_formats(open_table(str(folder / "t.tsv"), header=True)).frame["value"]


@pytest.mark.parametrize("name", READ)
def test_numbers_of_other_programs_and_countries_are_read(name, tmp_path):
    texts, numbers = READ[name]
    values = read(texts, tmp_path)
    assert [None if v != v else v for v in values] == numbers * 3


@pytest.mark.slow
@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_read_stays_text_with_a_remark(name, tmp_path):
    texts, remark = KEPT[name]
    values = read(texts, tmp_path)
    assert values.tolist() == texts * 3
    note = describe_column(values).note
    assert (remark in note) if remark else not note, note


def test_date_that_databases_write_for_none_is_missing(tmp_path):
    assert read(["2024-05-31", "0000-00-00", "2024-06-01"], tmp_path).isna().tolist() == [False, True, False] * 3


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp1252"])
def test_encodings_are_found_and_one_of_windows_is_said(encoding, tmp_path):
    text = "Stadt;n\n" + "Z\u00fcrich;1\nGen\u00e8ve;2\n" * 5
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    table = open_table(str(tmp_path / "t.csv"))
    assert table.frame["Stadt"].tolist()[:2] == ["Z\u00fcrich", "Gen\u00e8ve"]
    assert ["Western European" in remark for remark in table.source.remarks] == [True] * (encoding == "cp1252")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sep=;\na;b;c\n" + "1;2;3\n" * 9, "'sep=', is an instruction for Excel: remove it"),
        ("a;b;c\n" + "1;2;3\n" * 9 + "Source: us\n", "It is 'Source: us': if it is a footnote, remove it"),
        ("a;b;c\n" + "1;2;3\n" * 9 + "Source: us;;\n", "one value, 'Source: us', as a footnote"),
        (";A;\na;b;c\n" + "1;2;3\n" * 9, "as a line of groups or a title; the second has 'a', 'b', 'c'"),
        ("A;A;B\na;b;c\n" + "1;2;3\n" * 9, "If the first line has groups of columns and the second their names"),
        ("a;b;c\nkg;m;s\n" + "1;2;3\n" * 9, "as a line of units"),
        ("a;b;c\n" + "1;2;x\n" * 9 + "a;b;c\n" + "1;2;x\n" * 9, "row 9 has the names of the columns again"),
        ("name      age\n" + "Ann        41\nBo Li       7\n" * 9, "separated by blanks, as in 'Ann        41'"),
        (" 0.00632  18.00   2.310\n 0.02731   0.00   7.070\n" * 9, "separated by blanks, as in"),
    ],
)
def test_lines_that_are_no_rows_are_refused_with_what_to_do(text, message, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError) as refused:
        in_own_formats(open_table(str(tmp_path / "t.csv"), header=True))
    assert message in str(refused.value), str(refused.value)


@pytest.mark.parametrize(("values", "remark"), [([12.5, -999, 18], True), ([1, 9999, 3], True), ([18, 60, 99], False)])
def test_number_that_may_stand_for_a_missing_one_has_a_remark(values, remark):
    note = describe_column(pd.Series(values * 10, name="x")).note
    assert ("if it stands for a missing one" in note) == remark
