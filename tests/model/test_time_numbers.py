"""Times that are numbers, as seconds since 1970 or days such as 20240131: the same whichever way they come."""

from datetime import UTC, datetime, timedelta

import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandera.engines.pandas_engine import DateTime

from mlops_nb.batch.sources import open_source
from mlops_nb.data.column_formats import detect_formats
from mlops_nb.data.column_summary import describe_column
from mlops_nb.data.dialect import Dialect
from mlops_nb.data.tables import DIALECT, convert_columns, load_table, read_table, validate
from mlops_nb.errors import DataError, InputError
from mlops_nb.model.columns import rows_of, to_table
from mlops_nb.model.parser import InputParser
from mlops_nb.model.signature import Signature, make_signature
from mlops_nb.serving.protocols.schemas import input_schema
from tests.model.ways import in_a_job, in_a_request, one_by_one

few = settings(derandomize=True, deadline=None, database=None, max_examples=20)
NAMES = {"s": ["created_at", "timestamp", "lastSeen"], "ms": ["ts", "Event Time"], "YYYYMMDD": ["booked", "x"]}
TIMES = st.lists(
    st.datetimes(datetime(1991, 1, 1), datetime(2099, 1, 1)), min_size=6, max_size=12, unique_by=datetime.date
)
WORDS = st.lists(st.sampled_from(["", "NA", "0", "-1", "unknown"]), max_size=3)


def number(time: datetime, unit: str) -> int:
    if unit == "YYYYMMDD":
        return int(f"{time:%Y%m%d}")
    return int(time.replace(tzinfo=UTC, microsecond=0).timestamp()) * {"s": 1, "ms": 1000}[unit]


def as_read(time: datetime, unit: str) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S}.000000" if unit != "YYYYMMDD" else f"{time:%Y-%m-%d}T00:00:00.000000"


def schema_of(name: str) -> pa.DataFrameSchema:
    return pa.DataFrameSchema({name: pa.Column(DateTime(), nullable=True), "y": pa.Column(int)}, coerce=True)


def to_csv(name: str, values: list) -> str:
    return "\n".join([f"{name},y", *(f"{value},1" for value in values)]) + "\n"


def in_training(signature, table: pd.DataFrame, schema, dialect: Dialect) -> dict:
    return dict(enumerate(rows_of(signature, to_table(signature, validate(table, schema, dialect=dialect)))))


@pytest.mark.slow
@few
@given(unit=st.sampled_from([*NAMES]), times=TIMES, words=WORDS, data=st.data())
def test_times_that_are_numbers_are_the_same_whichever_way_they_come(unit, times, words, data, app, tmp_path_factory):
    name, folder = data.draw(st.sampled_from(NAMES[unit])), tmp_path_factory.mktemp("ways")
    numbers, schema = [number(time, unit) for time in times], schema_of(name)
    text = to_csv(name, [*numbers, *words])
    (folder / "train.csv").write_text(text)
    table = read_table(folder / "train.csv")
    dialect, [found] = detect_formats(table, Dialect.from_dict(table.attrs.get(DIALECT, {})))
    assert dialect.times == {name: unit}, found
    signature = make_signature(schema, [name], "y", "regression", ignored=["y"], dialect=dialect)
    assert Signature.from_dict(signature.to_dict()) == signature
    taken = dict(enumerate([[as_read(time, unit)] for time in times] + [[None]] * len(words)))
    for read in (read_table(folder / "train.csv", dialect=dialect), convert_columns(table, dialect)):
        assert pd.api.types.is_datetime64_dtype(read[name])
        assert in_training(signature, read, schema, dialect) == taken
    assert in_training(signature, table, schema, dialect) == taken, "a load() of its own that gives numbers"
    of_file = load_table(str(folder / "train.csv"), None, schema, dialect)
    assert in_training(signature, of_file, schema, dialect) == taken
    missing = [None] * len(words)
    for values in ([*map(str, numbers), *words], [*numbers, *missing], [*map(float, numbers), *missing]):
        assert one_by_one(signature, [{name: value} for value in values]) == (taken, {})
    assert one_by_one(signature, [{name: value} for [value] in taken.values()]) == (taken, {}), "as they are logged"
    assert in_a_job(signature, text, folder, chunk_rows=3) == (taken, {})
    assert in_a_request(app, signature, text) == (taken, {})
    for kind in ("Int64", "float64"):
        frame = pd.DataFrame({name: pd.Series([*numbers, *missing], dtype="float64").astype(kind), "y": 1})
        frame.to_parquet(folder / "train.parquet")
        of_parquet = read_table(folder / "train.parquet", dialect=dialect)
        assert in_training(signature, of_parquet, schema, dialect) == taken
        [chunk] = (source := open_source(str(folder / "train.parquet"), None, folder)).chunks
        rows = source.read(chunk, signature, []).table.select([name])
        assert dict(enumerate(rows_of(signature, InputParser(signature).parse(rows)))) == taken


SECONDS = [1_700_000_000 + 977 * n for n in range(40)]


@pytest.mark.parametrize("name", ["amount", "status", "rates", "data", "order_number", "format"])
@pytest.mark.parametrize("factor", [1, 1000])
def test_numbers_without_a_hint_stay_numbers_and_are_named(name, factor):
    values = pd.Series([value * factor for value in SECONDS], name=name)
    assert detect_formats(values.to_frame()) == (Dialect(), [])
    assert f"declare Dialect(times={{{name!r}: '{'s' if factor == 1 else 'ms'}'}})" in describe_column(values).note


def test_whole_minutes_are_times_and_rounded_amounts_are_none():
    minutes = pd.Series([value // 60 * 60 + 7 for value in SECONDS], name="x")
    assert detect_formats(minutes.to_frame())[0].times == {"x": "s"}
    amounts = pd.Series([value * 1000 // 5000 * 5000 for value in SECONDS], name="budget")
    assert detect_formats(amounts.to_frame())[0].times == {}
    assert detect_formats(pd.Series(range(1_700_000_000, 1_700_000_050), name="x").to_frame())[0].times == {}


def test_texts_and_words_among_numbers_are_read():
    values = pd.Series(
        ["20240131", "20240215", "20231224", "20240229", "20240301", "00000000", "unknown"], name="BUDAT"
    )
    dialect, [found] = detect_formats(values.to_frame())
    assert dialect.times == {"BUDAT": "YYYYMMDD"}
    assert set(dialect.missing_in["BUDAT"]) == {"00000000", "unknown"}
    assert convert_columns(values.to_frame(), dialect)["BUDAT"].isna().tolist() == [False] * 5 + [True] * 2
    assert str(found).startswith("`BUDAT`: days such as 20240131: `20240131` is read as 2024-01-31; 1 value `")


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        *(("s", value) for value in (1_700_000_000_000, 20240131, 1e300, 10**400, "soon", True, float("inf"), -5, [1])),
        *(("ms", 1_700_000_000), ("YYYYMMDD", 20240191), ("YYYYMMDD", 1_700_000_000)),
    ],
)
def test_number_in_another_unit_is_refused(unit, value):
    dialect, schema = Dialect(times={"at": unit}), schema_of("at")
    signature = make_signature(schema, ["at"], "y", "regression", dialect=dialect)
    with pytest.raises(InputError, match="column 'at': expected a date or time such as"):
        InputParser(signature).parse([{"at": value}])
    if isinstance(value, int) and value is not True and value < 2**63:
        with pytest.raises(DataError, match="column 'at', rule a date or time: broken by 1 of 1 rows"):
            validate(pd.DataFrame({"at": [value], "y": 1}), schema, dialect=dialect)


def test_fractions_of_seconds_are_kept():
    signature = make_signature(schema_of("at"), ["at"], "y", "regression", dialect=Dialect(times={"at": "s"}))
    at = datetime(2024, 1, 31, 13, 30, tzinfo=UTC) + timedelta(microseconds=250_001)
    for value in (at.timestamp(), str(at.timestamp()), at.isoformat()):
        assert rows_of(signature, InputParser(signature).parse([[value]])) == [["2024-01-31T13:30:00.250001"]]


def test_description_of_the_service_allows_numbers():
    signature = make_signature(schema_of("at"), ["at"], "y", "regression", dialect=Dialect(times={"at": "ms"}))
    assert input_schema(signature.inputs[0], signature.dialect)["type"] == ["string", "number", "null"]
    assert "type" in input_schema(signature.inputs[0])


def test_unknown_unit_is_refused():
    with pytest.raises(DataError, match="must be one of"):
        Dialect(times={"at": "minutes"})
