"""A column of numbers in any clothing: recognised, and the same numbers whichever way the column comes."""

import csv
import io
from datetime import datetime

import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pandera.engines.pandas_engine import DateTime

from mlops_nb.data.column_formats import detect_formats, detect_number_format
from mlops_nb.data.dates import date_format
from mlops_nb.data.dialect import Dialect
from mlops_nb.data.number_format import NumberFormat
from mlops_nb.data.tables import DIALECT, convert_columns, load_table, read_table, validate
from mlops_nb.errors import DataError, SpecError
from mlops_nb.model.columns import rows_of, to_table
from mlops_nb.model.parser import InputParser
from mlops_nb.model.signature import Signature, make_signature
from tests.model.ways import in_a_job, in_a_request, one_by_one

few = settings(derandomize=True, deadline=None, database=None, max_examples=20)

SCHEMA = pa.DataFrameSchema(
    {"n": pa.Column(float, nullable=True), "kind": pa.Column(str, nullable=True), "y": pa.Column(int)}, coerce=True
)
# how a number is written: as it is, negative, mark of decimals, mark of thousands; and its factor
CLOTHINGS = {
    "dollars": ("${}", "-${}", ".", ",", 1),
    "accounts": ("${}", "($ {})", ".", ",", 1),
    "euros": ("{} €", "-{} €", ",", ".", 1),
    "francs": ("CHF {}", "CHF -{}", ".", "'", 1),
    "percent": ("{}%", "-{} %", ".", "", 0.01),
    "thousands": ("{}k", "-{}k", ".", "", 1000),
    "millions": ("{}M", "-{} M", ".", "", 1_000_000),
    "prices in millions": ("${}m", "-${}m", ".", "", 1_000_000),
    "at least": ("{}+", "-{}+", ".", ",", 1),
    "mass": ("{} kg", "-{} kg", ".", "", 1),
    "speed": ("{}km/h", "-{}km/h", ".", ",", 1),
    "decimal comma": ("{}", "-{}", ",", "", 1),
    "decimal point": ("{}", "-{}", ".", "", 1),
    "blanks": ("{}", "-{}", ",", "\u00a0", 1),
    "thin blanks": ("{}", "-{}", ",", "\u2009", 1),
    "booked": ("{}", "{}-", ",", ".", 1),
    "booked euros": ("{} EUR", "{}- EUR", ",", ".", 1),
}
WORDS = st.sampled_from(["-", "unknown", "n/a", "?", "", "  ", "NA", "None", "N/A "])
CENTS = st.lists(st.integers(-(10**9), 10**9).filter(lambda n: n % 100 and n % 10), min_size=3, max_size=8, unique=True)


def write(cents: int, clothing: tuple) -> str:
    """Write a number of hundredths."""
    usual, negative, decimal, thousands, _ = clothing
    text = f"{abs(cents) / 100:,.2f}".replace(",", "\0").replace(".", decimal).replace("\0", thousands)
    return (negative if cents < 0 else usual).format(text)


def value(cents: int, clothing: tuple) -> float:
    power = {1: 0, 0.01: -2, 1000: 3, 1_000_000: 6}[clothing[4]]
    return float(f"{cents}e{power - 2}")


def to_text(texts: list[str], kinds: list[str] | None = None) -> str:
    out = io.StringIO()
    rows = zip(texts, kinds or ["a"] * len(texts), strict=True)
    csv.writer(out, lineterminator="\n").writerows([["n", "kind", "y"], *([*row, 1] for row in rows)])
    return out.getvalue()


def in_training(signature, path, dialect: Dialect, schema=SCHEMA) -> dict:
    table = load_table(str(path), None, schema, dialect)
    return dict(enumerate(rows_of(signature, to_table(signature, validate(table, schema, dialect=dialect)))))


@pytest.mark.slow
@few
@given(
    name=st.sampled_from(list(CLOTHINGS)),
    cents=CENTS,
    words=st.lists(WORDS, max_size=3),
    wrong=st.lists(st.sampled_from(["free", "1/2", "$", "12 apples or so", "1.2.3"]), max_size=2),
)
def test_numbers_in_any_clothing_are_the_same_whichever_way_they_come(name, cents, words, wrong, app, tmp_path_factory):
    clothing, folder = CLOTHINGS[name], tmp_path_factory.mktemp("ways")
    assume(name not in ("accounts", "booked", "booked euros") or any(n > 0 for n in cents))
    texts = [write(n, clothing) for n in cents] + words
    (folder / "train.csv").write_text(to_text(texts))
    table = read_table(folder / "train.csv")
    dialect, _ = detect_formats(table, Dialect.from_dict(table.attrs.get(DIALECT, {})))
    numbers = [value(n, clothing) for n in cents] + [None] * len(words)
    read = convert_columns(table, dialect)["n"]
    assert [None if pd.isna(v) else v for v in read] == numbers
    assert read_table(folder / "train.csv", dialect=dialect)["n"].equals(read)
    signature = make_signature(SCHEMA, ["n", "kind"], "y", "regression", ignored=["y"], dialect=dialect)
    assert Signature.from_dict(signature.to_dict()) == signature
    taken = {row: [number, "a"] for row, number in enumerate(numbers)}
    assert in_training(signature, folder / "train.csv", dialect) == taken
    texts += wrong
    rows = [{"n": text, "kind": "a"} for text in texts]
    refused = {len(numbers) + n: f"column 'n': expected a number, got {text!r}." for n, text in enumerate(wrong)}
    assert one_by_one(signature, rows) == (taken, refused)
    assert one_by_one(signature, [{"n": number, "kind": "a"} for number in numbers]) == (taken, {})
    assert in_a_job(signature, to_text(texts), folder, chunk_rows=3) == (taken, refused)
    assert in_a_request(app, signature, to_text(texts)) == (taken, refused)
    for number, text in enumerate(wrong):
        with pytest.raises(DataError, match="column 'n', rule a number: broken by 1 of 1 rows"):
            validate(pd.DataFrame({"n": [text], "kind": "a", "y": 1}), SCHEMA, dialect=dialect)
        assert len(numbers) + number in refused


digits = st.text("0123456789", min_size=1)
CODES = {
    "zip": st.from_regex(r"[0-9]{5}", fullmatch=True),
    "zip with words": st.from_regex(r"[0-9]{4}|-", fullmatch=True),
    "phone": st.from_regex(r"(0|\+41 )[0-9]{2} [0-9]{3} [0-9]{2} [0-9]{2}", fullmatch=True),
    "american phone": st.from_regex(r"\([0-9]{3}\) [0-9]{3}-[0-9]{4}|[0-9]{3}-[0-9]{3}-[0-9]{4}", fullmatch=True),
    "mobile": st.from_regex(r"\+41[0-9]{9}", fullmatch=True),
    "spaced": st.from_regex(r"[1-9][0-9]{2} [0-9]{3} [0-9]{3}", fullmatch=True),
    "version": st.from_regex(r"[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}", fullmatch=True),
    "hash": st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    "id": st.from_regex(r"0[0-9]{3,7}", fullmatch=True),
    "lettered": st.from_regex(r"[A-Z][0-9]{2,5}", fullmatch=True),
    "day": st.dates().map("{:%d.%m.%Y}".format),
    "clock": st.from_regex(r"[0-2]?[0-9]:[0-5][0-9]", fullmatch=True),
    "range": st.from_regex(r"[1-9]-[1-9][0-9]", fullmatch=True),
    "year": st.integers(1900, 2100).map(str),
}


@pytest.mark.slow
@few
@given(st.data())
def test_codes_are_no_numbers(data):
    name = data.draw(st.sampled_from(list(CODES)))
    texts = data.draw(st.lists(CODES[name], min_size=6, max_size=12, unique=True))
    texts += data.draw(st.lists(WORDS, max_size=2))
    assert detect_number_format(pd.Series(texts, name="column")) is None, texts


@pytest.mark.parametrize(
    ("texts", "dtype"),
    [
        (["01067", "80331", "10115"], "str"),
        (["+41441234567", "+41791234567"], "str"),
        (["00", "07", "23"], "int64"),
        (["0", "10", "100"], "int64"),
        (["001.5", "2"], "float64"),
    ],
)
def test_codes_with_leading_zeros_stay_text_in_a_file(texts, dtype, tmp_path):
    (tmp_path / "codes.csv").write_text("code,n\n" + "".join(f"{text},1\n" for text in texts))
    table = read_table(tmp_path / "codes.csv")
    assert str(table["code"].dtype) == dtype
    schema = pa.DataFrameSchema({"code": pa.Column(int)}, coerce=True)
    if dtype == "str":
        assert table["code"].tolist() == texts
        assert validate(table, schema)["code"].tolist() == [int(text) for text in texts], "the schema has the last word"


@pytest.mark.parametrize(
    "texts", [["3 kg", "5 lb", "2 kg"], ["$5", "€7", "$9"], ["95%", "0.3", "12%"], ["5k", "7 kg", "3k"]]
)
def test_numbers_of_several_units_stay_text(texts):
    assert detect_number_format(pd.Series(texts)) is None


def test_column_with_decimal_commas_and_column_with_points_are_both_numbers(tmp_path):
    (tmp_path / "mixed.csv").write_text("a;b;c\n1,5;2.5;x\n0,25;13.75;y\n7,0;1.5;x\n")
    table = read_table(tmp_path / "mixed.csv")
    dialect, [found] = detect_formats(table, Dialect.from_dict(table.attrs[DIALECT]))
    read = read_table(tmp_path / "mixed.csv", dialect=dialect)
    assert (found.name, read["a"].tolist(), read["b"].tolist()) == ("b", [1.5, 0.25, 7.0], [2.5, 13.75, 1.5])


SPELLED = Dialect(spellings={"kind": ("Bern", "Basel")})
SPELLINGS = st.sampled_from(["Bern", " bern", "BERN ", "basel", "Basel", "Genf", " Genf"])


@pytest.mark.slow
@few
@given(kinds=st.lists(SPELLINGS, min_size=1, max_size=40))
def test_spellings_are_one_value_whichever_way_they_come(kinds, app, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    signature = make_signature(SCHEMA, ["n", "kind"], "y", "regression", ignored=["y"], dialect=SPELLED)
    known = {"bern": "Bern", "basel": "Basel"}
    taken = {row: [1.0, known.get(kind.strip().lower(), kind)] for row, kind in enumerate(kinds)}
    text = to_text(["1"] * len(kinds), kinds)
    (folder / "train.csv").write_text(text)
    assert in_training(signature, folder / "train.csv", SPELLED) == taken
    frame = pd.DataFrame({"n": 1.0, "kind": kinds, "y": 1})
    assert validate(frame, SCHEMA, dialect=SPELLED)["kind"].tolist() == [kind for _, kind in taken.values()]
    rows = [{"n": 1, "kind": kind} for kind in kinds]
    assert one_by_one(signature, rows) == in_a_job(signature, text, folder, chunk_rows=3) == (taken, {})
    assert in_a_request(app, signature, text) == (taken, {})
    assert dict(enumerate(rows_of(signature, InputParser(signature).parse(rows)))) == taken


def test_signature_of_a_model_without_formats_is_as_before():
    assert Dialect().to_dict().keys() == {"missing", "decimal", "thousands", "true", "false"}
    assert hash(Dialect(numbers={"n": NumberFormat(multipliers={"k": 1000})})) == hash(Dialect())


def test_dialect_that_names_no_column_of_the_schema_is_refused():
    from dataclasses import replace

    from mlops_nb.examples.diagnosis import spec

    with pytest.raises(SpecError, match="The dialect names the column 'prize', which the schema does not have"):
        replace(spec, dialect=Dialect(numbers={"prize": NumberFormat()}))


DATES = ["%B %d, %Y", "%B %d %Y", "%d %B %Y", "%b %d, %Y", "%d-%b-%y", "%m/%d/%y", "%d/%m/%Y", "%d.%m.%Y", "%Y/%m/%d"]
DATES += ["%m/%d/%Y %I:%M %p", "%d.%m.%Y %H:%M:%S", "%b %d, %Y, %I:%M:%S%p", "%a %b %d %H:%M:%S %Y", "%A, %d %B %Y"]


@pytest.mark.slow
@few
@given(
    form=st.sampled_from(DATES),
    days=st.lists(st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)), min_size=4, max_size=9, unique=True),
    words=st.lists(WORDS, max_size=3),
)
def test_dates_in_any_form_are_the_same_whichever_way_they_come(form, days, words, app, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    texts = [f"{day:{form}}" for day in days]
    found = date_format(pd.Series(texts))
    assert found is not None
    (folder / "train.csv").write_text(to_text(texts + words))
    table = read_table(folder / "train.csv")
    dialect, columns = detect_formats(table)
    assert [column.format for column in columns] == [found] * bool({*words} - set(dialect.missing))
    column = pa.Column(DateTime(to_datetime_kwargs={"format": found}), nullable=True)
    schema = pa.DataFrameSchema({**SCHEMA.columns, "n": column}, coerce=True)
    signature = make_signature(schema, ["n", "kind"], "y", "regression", ignored=["y"], dialect=dialect)
    assert Signature.from_dict(signature.to_dict()) == signature
    expected = [*pd.to_datetime(pd.Series(texts), format=found), *[None] * len(words)]
    taken = {row: [day and f"{day:%Y-%m-%dT%H:%M:%S.%f}", "a"] for row, day in enumerate(expected)}
    if found == form and "%y" not in form:
        assert [day for day in expected if day] == [datetime.strptime(text, form) for text in texts]
    texts += [*words, "soon", "2024-13-45"]
    rows = [{"n": text, "kind": "a"} for text in texts]
    read, refused = one_by_one(signature, rows)
    assert read == taken
    assert set(refused) == {len(texts) - 2, len(texts) - 1}
    assert in_a_job(signature, to_text(texts), folder, chunk_rows=3) == (taken, refused)
    assert in_a_request(app, signature, to_text(texts)) == (taken, refused)
    assert in_training(signature, folder / "train.csv", dialect, schema) == taken
