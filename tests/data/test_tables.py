"""Reading, checking, keeping and splitting: what breaks it, and what must never come out."""

import errno
import hashlib
from datetime import date
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.engines.pandas_engine import DateTime

from mlops_nb.data.dialect import Dialect
from mlops_nb.data.tables import (
    DIALECT,
    LINEAGE,
    describe_table,
    dialect_of,
    fingerprint,
    lineage_of,
    load_table,
    read_table,
    row_weights,
    snapshot,
    split,
    validate,
)
from mlops_nb.errors import DataError, SchemaError

settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("same")

SCHEMA = pa.DataFrameSchema(
    {
        "id": pa.Column(int, unique=True),
        "age": pa.Column(int, pa.Check.in_range(0, 120)),
        "home": pa.Column(str, pa.Check.isin(["own", "rent"]), nullable=True),
    }
)
GOOD = pd.DataFrame({"id": [1, 2, 3], "age": [41, 29, 67], "home": ["own", None, "rent"]})


def test_fsspec_urls_and_compressed_files_are_read(tmp_path):
    with fsspec.open("memory://people.csv", "w") as file:
        GOOD.to_csv(file, index=False)
    GOOD.to_csv(tmp_path / "people.csv.gz", index=False)
    for source in ("memory://people.csv", str(tmp_path / "people.csv.gz")):
        assert read_table(source)["age"].tolist() == [41, 29, 67]


FAIR = pd.DataFrame({"Ort": ["Köln", "Bonn; Süd"], "Preis": [1234.5, -7.25], "n": [1, 2], "am": ["01.02.2024"] * 2})


@pytest.mark.parametrize("sep", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_csv_is_read_whatever_dialect_it_is_written_in(sep, decimal, encoding, tmp_path):
    FAIR.to_csv(tmp_path / "fair.csv", sep=sep, decimal=decimal, encoding=encoding, index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / "fair.csv"), FAIR)


def test_thousands_with_points_are_numbers_and_dates_with_points_stay_text(tmp_path):
    (tmp_path / "fair.csv").write_text("Ort;Preis;am\nKöln;1.234,5;01.02.2024\nBonn;7,25;28.02.2024\n")
    read = read_table(tmp_path / "fair.csv")
    assert read["Preis"].tolist() == [1234.5, 7.25]
    assert read["am"].tolist() == ["01.02.2024", "28.02.2024"]


def test_commas_between_thousands_are_no_decimal_commas(tmp_path):
    cities = 'city,people,share,lines\nOslo,"1,266","1,000.5","1,2"\nBonn,987,-38.99,"3"\n'
    (tmp_path / "cities.csv").write_text(cities)
    read = read_table(tmp_path / "cities.csv")
    assert read["people"].tolist() == [1266, 987]
    assert read["share"].tolist() == [1000.5, -38.99]
    assert read["lines"].tolist() == ["1,2", "3"], "a list is no number"


@pytest.mark.parametrize(("second", "value"), [("3,14", 3.14), ("0,266", 0.266), ("12345,678", 12345.678)])
def test_decimal_comma_before_three_digits_stays_one_where_another_shows_it(second, value, tmp_path):
    (tmp_path / "fair.csv").write_text(f'a,b\n"1,266",x\n"{second}",y\n')
    assert read_table(tmp_path / "fair.csv")["a"].tolist() == [1.266, value]


def test_decimal_points_beside_points_between_thousands_are_not_lost(tmp_path):
    (tmp_path / "mixed.csv").write_text("a;b;c\n1.234,5;1.5;0,5\n3,0;2.75;7\n")
    read = read_table(tmp_path / "mixed.csv")
    assert read["b"].astype(float).tolist() == [1.5, 2.75]
    assert read["a"].tolist() == ["1.234,5", "3,0"]
    assert read["c"].tolist() == [0.5, 7.0]


def test_whole_numbers_with_two_points_are_no_dates(tmp_path):
    (tmp_path / "sums.csv").write_text("a;b;ip\n1.234.567;1.234,5;10.0.0.1\n890;2,5;192.168.100.200\n")
    read = read_table(tmp_path / "sums.csv")
    assert read["a"].tolist() == [1234567, 890]
    assert read["ip"].tolist() == ["10.0.0.1", "192.168.100.200"]


def test_character_beyond_the_beginning_of_a_file_may_be_of_another_encoding(tmp_path):
    (tmp_path / "long.csv").write_bytes(b"name,n\n" + b"plain,1\n" * 40_000 + "Köln,2\n".encode("latin-1"))
    assert read_table(tmp_path / "long.csv")["name"].iloc[-1] == "Köln"


def test_quoted_text_may_hold_separators_and_line_breaks(tmp_path):
    table = pd.DataFrame({"note": ["a; b, c", 'she said "no"\nand left', "plain"], "n": [1, 2, 3]})
    table.to_csv(tmp_path / "notes.csv", index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / "notes.csv"), table)


def test_excel_is_read_and_column_names_are_text(tmp_path):
    pd.DataFrame({2023: [1, 2], "b": ["x", "y"]}).to_excel(tmp_path / "book.xlsx", index=False)
    assert read_table(tmp_path / "book.xlsx").to_dict("list") == {"2023": [1, 2], "b": ["x", "y"]}


def test_types_that_no_model_takes_become_plain_ones(tmp_path):
    from datetime import date
    from decimal import Decimal

    odd = pd.DataFrame({"price": [Decimal("1.50"), None], "on": [date(2024, 5, 31), None], "kind": ["a", None]})
    odd.astype({"kind": "category"}).to_parquet(tmp_path / "odd.parquet")
    read = read_table(tmp_path / "odd.parquet")
    assert read["price"].tolist()[0] == 1.5
    assert str(read["on"].dtype).startswith("datetime64")
    assert read["kind"].dtype == "str"
    assert read.isna().iloc[1].all()


@pytest.mark.parametrize("source", ["postgresql://u:${DB_PASSWORD}@127.0.0.1:1/x", "/nowhere/${DB_PASSWORD}.csv"])
def test_secret_of_a_source_is_in_no_error(source, monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "hunter2-hunter2")
    with pytest.raises(DataError, match="Cannot read") as caught:
        read_table(source, "SELECT 1" if "://" in source else None)
    chain = [caught.value]
    while chain[-1].__cause__:
        chain.append(chain[-1].__cause__)
    assert not any("hunter2" in str(e) for e in chain)


@pytest.mark.parametrize("content", ["", "a,b\n", "\x00\x01", 'a,b\n"1,2\n'])
def test_file_that_is_no_table_is_one_clear_error(tmp_path, content):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(DataError, match=r"Cannot read|has no rows"):
        load_table(str(tmp_path / "x.csv"))


def test_loader_that_returns_no_table_is_refused():
    with pytest.raises(DataError, match="must return a DataFrame, got list"):
        load_table(lambda: [1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": [41, -1, 500]}, r"column 'age', rule in_range\(0, 120\): broken by 2 of 3 rows"),
        ({"age": [41.5, 29.0, 67.0]}, r"column 'age', rule dtype"),
        ({"home": ["own", "boat", "rent"]}, r"column 'home', rule isin\(.*: broken by 1 of 3 rows"),
        ({"id": [1, 1, 2]}, r"column 'id', rule field_uniqueness: broken by 2 of 3 rows"),
    ],
)
def test_broken_rule_names_column_rule_and_count(change, message):
    with pytest.raises(SchemaError, match=message):
        validate(GOOD.assign(**change), SCHEMA)


def test_first_offending_rows_are_shown_and_no_more_than_asked_for():
    bad = pd.DataFrame({"id": range(100), "age": [-1] * 100, "home": ["own"] * 100})
    with pytest.raises(SchemaError) as caught:
        validate(bad, SCHEMA, show=2)
    assert str(caught.value).count("    row ") == 2
    assert "row 0: {'id': 0, 'age': -1, 'home': 'own'}" in str(caught.value)


ODD = [{"a": 1}, [1, 2], {3, 4}, (5, 6), np.array([7, 8]), IPv4Address("10.0.0.1")]


@pytest.mark.parametrize("value", ODD, ids=lambda v: type(v).__name__)
def test_values_that_no_model_takes_stop_nothing_until_the_schema_has_them(value):
    table = GOOD.assign(extra=pd.Series([value] * 3, dtype=object))
    assert list(validate(table, SCHEMA)) == list(GOOD)
    assert "extra" not in describe_table(table).index
    assert fingerprint(lambda: table) == fingerprint(lambda: table.copy())
    assert fingerprint(lambda: table) != fingerprint(lambda: GOOD.assign(extra="x"))
    for kind in (str, object, float):
        schema = SCHEMA.add_columns({"extra": pa.Column(kind, coerce=True)})
        with pytest.raises(SchemaError, match=f"Column 'extra' holds values of the type {type(value).__name__}"):
            validate(table, schema)


@pytest.mark.parametrize(
    ("kind", "values", "rule"),
    [
        (int, [1.5, 2.0], "a whole number"),
        (bool, [2, 1], "true or false"),
        (bool, [None, True], "true or false"),
        (bool, [np.nan, 1.0], "true or false"),
        (float, ["1,000", "2"], "a number"),
        (bool, ["yes", "no"], "true or false"),
        ("datetime64[ns]", ["5/31/2024", "2024-05-31"], "a date or time"),
        ("datetime64[ns]", ["-7", "2024-05-31"], "a date or time"),
    ],
)
def test_conversion_to_the_schema_s_type_changes_no_value_in_silence(kind, values, rule):
    schema = pa.DataFrameSchema({"a": pa.Column(kind)}, coerce=True)
    with pytest.raises(SchemaError, match=f"column 'a', rule {rule}: broken by [12] of 2 rows"):
        validate(pd.DataFrame({"a": values}), schema)


def test_missing_column_gets_the_nearest_name():
    with pytest.raises(SchemaError, match=r"Column 'age' is missing\. Did you mean 'agee'"):
        validate(GOOD.rename(columns={"age": "agee"}), SCHEMA)


def test_snapshot_is_named_by_its_content_and_kept_once(tmp_path):
    first, second = snapshot(GOOD, tmp_path / "data"), snapshot(GOOD.copy(), tmp_path / "data")
    assert first == second
    assert [p.name for p in (tmp_path / "data").iterdir()] == [f"{first.sha256}.parquet"]
    assert hashlib.sha256(first.path.read_bytes()).hexdigest() == first.sha256


def test_crash_while_writing_a_snapshot_leaves_nothing(tmp_path, monkeypatch):
    def crash(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="No space left"):
        snapshot(GOOD, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_full_keeps_no_part_of_a_snapshot(tmp_path, monkeypatch):
    def half(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        snapshot(GOOD, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@given(
    days=st.lists(st.integers(0, 12), min_size=8, max_size=60).filter(lambda d: len(set(d)) > 3),
    test_size=st.floats(0.05, 0.6),
)
def test_split_by_time_never_trains_on_what_is_as_new_as_a_test_row(days, test_size):
    table = pd.DataFrame({"day": days, "y": np.arange(len(days)) % 2})
    try:
        train, test = split(table, "y", test_size=test_size, time="day")
    except DataError as error:
        message = str(error)
    else:
        assert train["day"].max() < test["day"].min()
        assert len(train) + len(test) == len(table)
        return
    assert "cannot split by 'day'" in message


@pytest.mark.parametrize("absent", [1, 30, 100])
@pytest.mark.parametrize("kind", ["datetime64[us]", "float", "Int64"])
def test_split_by_time_drops_no_row_whose_time_is_missing(kind, absent):
    times = pd.Series([*range(100 - absent), *[None] * absent], dtype="Int64").astype(kind)
    table = pd.DataFrame({"at": times, "y": np.arange(100) % 2})
    with pytest.raises(DataError, match=f"{absent} of 100 rows have no 'at', by which they are to be split"):
        split(table, "y", time="at")


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1))
def test_random_split_follows_from_the_seed_and_keeps_every_row_once(seed):
    table = pd.DataFrame({"x": range(50), "y": [0, 1] * 25})
    train, test = split(table, "y", seed=seed, stratify=True)
    again = split(table, "y", seed=seed, stratify=True)
    pd.testing.assert_frame_equal(train, again[0])
    assert sorted([*train["x"], *test["x"]]) == list(range(50))
    assert test["y"].sum() == 5


def test_class_with_one_row_cannot_be_stratified_and_says_so():
    with pytest.raises(DataError, match="Cannot split 11 rows"):
        split(pd.DataFrame({"y": ["a"] * 10 + ["b"]}), "y", stratify=True)


@pytest.mark.parametrize(
    "other",
    [
        GOOD.assign(age=[41, 29, 68]),
        GOOD.rename(columns={"age": "Age"}),
        GOOD.astype({"age": float}),
        GOOD.iloc[::-1],
        GOOD.iloc[:2],
        GOOD[["age", "id", "home"]],
        GOOD.assign(home=["own", "None", "rent"]),
    ],
    ids=["value", "name", "type", "order", "rows", "columns", "missing"],
)
def test_fingerprint_changes_with_the_content(other):
    assert fingerprint(lambda: GOOD) != fingerprint(lambda: other)
    assert fingerprint(lambda: GOOD) == fingerprint(lambda: GOOD.copy())


def test_fingerprint_of_a_file_is_that_of_its_bytes_whatever_its_time(tmp_path):
    import os

    GOOD.to_csv(tmp_path / "x.csv", index=False)
    before = fingerprint(str(tmp_path / "x.csv"))
    os.utime(tmp_path / "x.csv", (1, 1))
    assert fingerprint(str(tmp_path / "x.csv")) == before


KEPT = {
    "str": pd.Series(["a", None, "b", "b"], dtype="str"),
    "object of words": pd.Series(["a", None, "b", "b"], dtype=object),
    "object of numbers": pd.Series([1, None, 2, 2], dtype=object),
    "object of truths": pd.Series([True, None, False, False], dtype=object),
    "decimals": pd.Series([Decimal("1.5"), Decimal("2.25"), None, Decimal("0.10")], dtype=object),
    "days": pd.Series([date(2024, 1, 1), None, date(2024, 2, 1), date(2024, 1, 1)], dtype=object),
    "categories": pd.Series(pd.Categorical(["S", "L", "S", None], categories=["S", "M", "L"])),
    "ordered": pd.Series(pd.Categorical(["S", "L", "S", "L"], categories=["S", "M", "L"], ordered=True)),
    "seconds": pd.Series(pd.date_range("2024", periods=4)).astype("datetime64[s]"),
    "nanoseconds": pd.Series(pd.date_range("2024", periods=4)).astype("datetime64[ns]"),
    "zone": pd.Series(pd.date_range("2024", periods=4, tz="Europe/Berlin")),
    "missing integers": pd.Series([1, None, 2, 2], dtype="Int64"),
    "floats": pd.Series([np.nan, -0.0, 1e300, 0.1]),
    "single precision": pd.Series([0.1, 0.2, 0.3, 0.4], dtype="float32"),
    "large": pd.Series([2**63, 0, 1, 2], dtype="uint64"),
    "arrow": pd.Series([1.5, None, 2.5, 3.5], dtype="double[pyarrow]"),
}


@pytest.mark.parametrize("kind", KEPT)
def test_snapshot_takes_the_place_of_the_function_that_made_the_table(tmp_path, kind):
    table = pd.DataFrame({"x": KEPT[kind], "y": [0, 1, 0, 1]})
    schema = pa.DataFrameSchema({"x": pa.Column(table["x"].dtype, nullable=True), "y": pa.Column(int)})
    first = validate(load_table(lambda: table), schema)
    kept = snapshot(first, tmp_path)
    second = validate(load_table(str(kept.path)), schema)
    assert second.dtypes.equals(first.dtypes)
    assert snapshot(second, tmp_path) == kept
    parts = [split(t, "y", 0.5, seed=3, stratify=True) for t in (first, second)]
    assert [p.to_parquet() for p in parts[0]] == [p.to_parquet() for p in parts[1]]


def test_snapshot_of_a_table_that_was_made_of_others_keeps_its_lineage(tmp_path):
    table = pd.DataFrame({"x": [1.0, 2.0], "y": [0, 1]})
    table.attrs = {LINEAGE: {"production": {"rows": 1}, "weight": 3.0}}
    kept = snapshot(table, tmp_path)
    again = load_table(str(kept.path))
    assert lineage_of(again) == lineage_of(table)
    assert row_weights(again).tolist() == [1.0, 3.0]
    assert snapshot(again, tmp_path) == kept


def test_parquet_file_of_another_name_is_read_as_what_a_model_can_take(tmp_path):
    pd.DataFrame({"x": KEPT["categories"], "d": KEPT["days"]}).to_parquet(tmp_path / "mine.parquet")
    assert read_table(tmp_path / "mine.parquet").dtypes.map(str).tolist() == ["str", "datetime64[s]"]


@pytest.mark.parametrize("test_size", ["20%", None, 20])
def test_share_of_test_rows_that_is_no_share_is_told_its_form(test_size):
    with pytest.raises(DataError, match=f"test_size must be a number between 0 and 1 such as 0.2, got {test_size!r}"):
        split(GOOD, "home", test_size=test_size)


def test_codes_of_a_sheet_and_of_a_text_table_stay_texts(tmp_path):
    codes = pd.DataFrame({"zip": ["01067", "10115"], "hour": ["01", "12"], "n": ["1", "10"], "x": [1.5, 2.0]})
    codes.to_excel(tmp_path / "codes.xlsx", index=False)
    codes.to_csv(tmp_path / "codes.csv", index=False)
    for name in ("codes.xlsx", "codes.csv"):
        read = read_table(tmp_path / name)
        assert read["zip"].tolist() == ["01067", "10115"], name
        assert read[["hour", "n"]].to_dict("list") == {"hour": [1, 12], "n": [1, 10]}, name


def test_codes_are_those_of_the_table_that_load_returns(tmp_path):
    (tmp_path / "t.csv").write_text("zip,n\n0101,1\n8001,2\n")
    table = read_table(tmp_path / "t.csv")
    assert dialect_of(table)[DIALECT]["codes"] == {"zip": 4}
    cut = table.assign(zip=table["zip"].str.lstrip("0"))
    assert "codes" not in dialect_of(cut)[DIALECT]


def test_times_that_nanoseconds_cannot_count_are_taken_as_requests_take_them():
    schema = pa.DataFrameSchema({"until": pa.Column(DateTime(), nullable=True)}, coerce=True)
    texts = ["9999-12-31", "2024-05-31", None, "1500-03-01"]
    for values in (texts, pd.Series(texts).astype("datetime64[us]")):
        until = validate(pd.DataFrame({"until": values}), schema)["until"]
        assert until.dt.year.fillna(0).tolist() == [9999, 2024, 0, 1500]


@pytest.mark.parametrize("names", [["k"], ["k", "day"], [None], [None, "day"]])
def test_index_with_a_name_is_a_column(names, tmp_path):
    table = pd.DataFrame({"k": [3, 1, 2], "day": ["b", "a", "c"], "n": [1.0, 2.0, 3.0]})
    levels = [table[name] if name else range(5, 8) for name in names]
    kept = [name for name in names if name]
    index = pd.MultiIndex.from_arrays(levels, names=names) if len(names) > 1 else pd.Index(levels[0], name=names[0])
    table.drop(columns=kept).set_index(index).to_parquet(tmp_path / "t.parquet")
    read = read_table(tmp_path / "t.parquet")
    assert {*read} == {"k", "day", "n"}
    assert read["n"].tolist() == [1.0, 2.0, 3.0]
    assert all(read[name].tolist() == table[name].tolist() for name in kept)


def test_columns_of_a_table_share_its_dialect(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("name,zip\n" + "ann,0123\nbob,0456\n" * 20)
    for table in (read_table(file), read_table(file).head(1), read_table(file, dialect=Dialect(decimal=","))):
        assert table["name"].isna().attrs[DIALECT] is table.attrs[DIALECT]
    kept = pd.read_parquet(snapshot(read_table(file), tmp_path).path)
    assert kept.attrs == read_table(file).attrs
