"""A column in each form that people write: what `mlops-nb new` decides and says, and how raw rows are read."""

import csv
import io
import random

import numpy as np
import pandas as pd
import pytest
from pyarrow import parquet

from mlops_nb.model.columns import rows_of
from mlops_nb.model.parser import InputParser
from mlops_nb.project.table_formats import in_own_formats
from mlops_nb.project.table_source import open_table
from tests.model.ways import in_a_job, one_by_one
from tests.new.drafted import draft

ROWS = 90
EVERY = 15  # row from which on the odd values of a form come again
TIMES = {
    "24 hours": ("{h:02}:{m:02}", lambda h, m: 60 * h + m),
    "with seconds": ("{h:02}:{m:02}:30", lambda h, m: 60 * h + m + 0.5),
    "am and pm": ("{h12}:{m:02} {half}", lambda h, m: 60 * h + m),
    "French": ("{h}h{m:02}", lambda h, m: 60 * h + m),
    "German": ("{h}:{m:02} Uhr", lambda h, m: 60 * h + m),
    "units": ("{h}h {m}m", lambda h, m: 60 * h + m),
    "long units": ("{h} hours and {m} minutes", lambda h, m: 60 * h + m),
    "days": ("{h} days {m:02}:00:00", lambda h, m: 1440 * h + 60 * m),
    "ISO 8601": ("PT{h}H{m}M", lambda h, m: 60 * h + m),
    "race": ("{h}:{m:02}.6", lambda h, m: h + (m + 0.6) / 60),
    "minutes and seconds": ("{h30}:{m:02}", lambda h, m: h + 30 + m / 60),
}
# texts of most rows from a number below 100, texts of the others; kind, and what is said
NUMBERS = {
    "inf": ("{:.1f}", ["inf", "-inf", "1e400"], "became missing"),
    "errors of Excel": ("{:.1f}", ["#DIV/0!", "#N/A", "nan%"], "2 values `#DIV/0!` and 2 values `nan%` became missing"),
    "share of nothing": ("{:.0f}%", ["nan%", "-%", "inf%"], "2 values `inf%` became missing"),
    "words": ("{:.1f}", ["?", "TBD", "."], "2 values `?`, 2 values `TBD` and 2 values `.` became missing"),
    "one comma": ("{:.1f}", ["3,5"], "6 values with the other mark, such as `3,5`, too"),
    "unclear comma": ("{:.1f}", ["3,5", "1,234"], "3 values `1,234` became missing"),
    "limits": ("{:.1f}", ["<0.5", "≥ 100"], "as their limit"),
    "two units": ("{:.1f} kg", ["750 g"], "all are read in "),
    "some with percent": ("{:.0f}", ["26%"], "without %, such as "),
    "no cents": ("{:.2f}", ["5.-"], "is read as"),
    "minus sign": ("{:.1f}", ["\u22125.5", "\u20137.5"], "is read as"),
    "invisible": ("{:.1f}", ["5.5\u200b", "\ufeff7.5"], "is read as"),
}
KEPT = {
    "versions": (["1.1", "1.10", "1.9", "2.0"], "are different versions or sections"),
    "quarters": ([f"{year}Q{n}" for year in range(2015, 2024) for n in range(1, 5)], "in a form that is not read"),
    "ISO weeks": ([f"2021-W{week:02}" for week in range(1, 30)], "in a form that is not read"),
    "two currencies": (["$5.00", "€5.00", "$7.50"], "in a form that is not read"),
    "other digits": (["٧٥", "٢٣", "٤٢"], "in a form that is not read"),
    "groups of ages": (["<30", ">30", "30"], "in a form that is not read"),
    "addresses": (["10.0.0.1", "10.0.0.12", "10.0.1.1"], ""),
}
IDS = {  # they may be numbers in a form that is not read
    "ranges": lambda i: f"{i}-{2 * i + 3}",
    "coordinates": lambda i: f"{i % 90}°{i % 60:02}'{i}\"N",
    "mixed orders of dates": lambda i: (
        "/".join([f"{13 + i % 15}", f"{1 + i % 12:02}"][:: 1 if i % 2 else -1]) + f"/{1900 + i}"
    ),
    "binary units": lambda i: f"{i}.5 KiB" if i % 2 else f"{i}.25 MiB",
}


def write(folder, texts: list[str], labels: list[str] | None = None) -> str:
    rng = random.Random(7)
    labels = labels or [rng.choice("yn") for _ in texts]
    out = io.StringIO()
    rows = zip(texts, (f"{rng.gauss(0, 1):.3f}" for _ in texts), labels, strict=True)
    csv.writer(out, lineterminator="\n").writerows([["f", "noise", "label"], *rows])
    (folder / "forms.csv").write_text(out.getvalue(), encoding="utf-8")
    return out.getvalue()


def check_ways(drafted, text: str, folder):
    """Compare the raw rows, as a client and a job send them, with those of training."""
    rows = list(csv.DictReader(io.StringIO(text)))
    expected = drafted.rows
    taken, refused = one_by_one(drafted.signature, rows)
    assert (refused, {number: taken[number] for number in expected}) == ({}, expected)
    taken, refused = in_a_job(drafted.signature, text, folder, chunk_rows=32)
    assert (refused, {number: taken[number] for number in expected}) == ({}, expected)
    typed = [dict(zip(drafted.signature.names, row, strict=True)) for row in expected.values()]
    assert rows_of(drafted.signature, InputParser(drafted.signature).parse(typed)) == [*expected.values()]


@pytest.mark.parametrize("form", TIMES)
def test_times_of_day_and_durations_are_minutes(form, tmp_path):
    written, minutes = TIMES[form]
    moments = [(i * 7 % 24, i * 13 % 60) for i in range(ROWS)]
    moments = [(h, m % 24) for h, m in moments] if form == "days" else moments
    halves = [{"h12": (h - 1) % 12 + 1, "half": "AM" if h < 12 else "PM", "h30": h + 30} for h, _ in moments]
    texts = [written.format(h=h, m=m, **half) for (h, m), half in zip(moments, halves, strict=True)]
    texts[5] = "unknown"
    text = write(tmp_path, texts)
    drafted = draft(str(tmp_path / "forms.csv"), "label")
    assert drafted["f"].kind == "number"
    assert "minutes; 1 value `unknown` became missing" in drafted.conversions[0]
    place = drafted.signature.names.index("f")
    read = [row[place] for row in drafted.rows.values()]
    assert read[5] is None
    assert read[6:] == pytest.approx([minutes(h, m) for h, m in moments[6:]])
    check_ways(drafted, text, tmp_path)


@pytest.mark.parametrize("form", NUMBERS)
def test_a_minority_form_decides_no_column_and_is_counted(form, tmp_path):
    usual, odd, said = NUMBERS[form]
    texts = [odd[i // EVERY % len(odd)] if i % EVERY == 0 else usual.format(i * 37 % 100 + 0.5) for i in range(ROWS)]
    text = write(tmp_path, texts)
    drafted = draft(str(tmp_path / "forms.csv"), "label")
    assert drafted["f"].kind in ("number", "whole number")
    assert said in drafted.conversions[0]
    check_ways(drafted, text, tmp_path)


@pytest.mark.parametrize("form", KEPT)
def test_what_is_no_number_stays_text_and_says_so(form, tmp_path):
    values, said = KEPT[form]
    text = write(tmp_path, [values[i % len(values)] for i in range(ROWS)])
    drafted = draft(str(tmp_path / "forms.csv"), "label")
    assert (drafted["f"].kind, drafted["f"].distinct) == ("category", len(values))
    assert said in drafted["f"].note if said else not drafted["f"].note
    check_ways(drafted, text, tmp_path)


@pytest.mark.parametrize("form", IDS)
def test_column_that_is_left_out_as_an_id_has_one_sentence(form, tmp_path):
    write(tmp_path, [IDS[form](i) for i in range(ROWS)])
    column = draft(str(tmp_path / "forms.csv"), "label")["f"]
    assert "an id, unless values such as" in column.exclusion_reason
    assert not column.note


@pytest.mark.parametrize("typed", [int, float])
def test_code_that_lost_its_zeros_is_the_code_where_all_have_one_width(typed, tmp_path):
    text = write(tmp_path, [f"{101 * (i % 9) + 17:04}" for i in range(ROWS)])
    drafted = draft(str(tmp_path / "forms.csv"), "label")
    check_ways(drafted, text, tmp_path)
    sent = pd.read_csv(tmp_path / "forms.csv").astype({"f": typed}).to_dict("records")
    assert one_by_one(drafted.signature, sent) == (drafted.rows, {})
    lost = pd.read_csv(tmp_path / "forms.csv").astype({"f": typed}).to_csv(index=False).replace(".0,", ",")
    assert in_a_job(drafted.signature, lost, tmp_path) == (drafted.rows, {})


def test_number_for_a_code_of_any_width_is_refused_with_a_text(tmp_path):
    write(tmp_path, [["017", "4711", "09"][i % 3] for i in range(ROWS)])
    drafted = draft(str(tmp_path / "forms.csv"), "label")
    [reason] = one_by_one(drafted.signature, [{"f": 17, "noise": 1.0}])[1].values()
    assert reason == "column 'f': expected a string such as '017', got 17."


def test_points_before_three_digits_group_thousands_beside_smaller_numbers(tmp_path):
    text = write(tmp_path, [f"{i * 97:,}".replace(",", ".") for i in range(ROWS)])
    drafted = draft(str(tmp_path / "forms.csv"), "label")
    assert (drafted["f"].low, drafted["f"].high) == (0, 89 * 97)
    check_ways(drafted, text, tmp_path)


@pytest.mark.parametrize("names", [("yes", "no"), ("true", "false")])
def test_word_for_a_missing_label_is_no_class_unless_it_is_kept(names, tmp_path):
    labels = ["?" if i % 6 == 0 else names[i % 2] for i in range(ROWS)]
    text = write(tmp_path, [str(i * 31 % 50) for i in range(ROWS)], labels)
    drafted = draft(str(tmp_path / "forms.csv"), "label")
    assert {str(label).lower() for label in drafted.summary.target.classes} == {*names}
    assert drafted.summary.target.missing == 15
    assert "15 values `?` became missing, so these rows are left out" in drafted.conversions[0]
    check_ways(drafted, text, tmp_path)
    kept = draft(str(tmp_path / "forms.csv"), "label", keep=True)
    assert "?" in kept.summary.target.classes


def test_sentinel_of_a_target_is_said(tmp_path):
    write(tmp_path, [str(i) for i in range(ROWS)], ["99999" if i % 30 == 0 else str(i % 40 + 0.5) for i in range(ROWS)])
    assert "99999 in 3 rows" in draft(str(tmp_path / "forms.csv"), "label").summary.target.note


def test_durations_and_infinite_numbers_of_parquet_are_read_as_those_of_texts(tmp_path):
    number = np.arange(ROWS)
    table = pd.DataFrame({"took": pd.to_timedelta(number * 90, "s"), "rate": np.where(number % 9, 1.5, np.inf)})
    table["at"] = [pd.Timestamp(2024, 1, 1, i % 24, 30).time() for i in range(ROWS)]
    table["label"] = ["y", "n"] * (ROWS // 2)
    table.to_parquet(tmp_path / "forms.parquet")
    made = in_own_formats(open_table(str(tmp_path / "forms.parquet")))
    assert made.frame["took"].tolist()[:3] == [0, 1.5, 3]
    assert made.frame["at"].tolist()[:3] == [30, 90, 150]
    assert made.frame["rate"].isna().sum() == 10
    drafted = draft(str(tmp_path / "forms.parquet"), "label")
    rows = InputParser(drafted.signature).parse(parquet.read_table(tmp_path / "forms.parquet"))
    assert rows_of(drafted.signature, rows) == [*drafted.rows.values()]
