"""Requests to columns: whatever comes, a table or an InputError."""

import math
from dataclasses import replace
from datetime import UTC
from decimal import Decimal

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pyarrow
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from pandera.engines.pandas_engine import DateTime

from mlops_nb.data.tables import validate
from mlops_nb.errors import InputError, SpecError
from mlops_nb.model.columns import rows_of, to_frame, to_table
from mlops_nb.model.parser import InputParser
from mlops_nb.model.signature import Input, Signature, make_signature

settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=150)
settings.load_profile("same")

MATRIX = Signature((Input("a"), Input("b", minimum=-5, below=5), Input("c", required=False)), "regression", "y")
MIXED = Signature(
    (
        Input("age", "int", minimum=0, maximum=120),
        Input("score", "float", required=False),
        Input("member", "bool"),
        Input("home", "string", categories=("own", "rent")),
        Input("job", "string", required=False, categories=("cook",), unseen="ignore"),
    ),
    "classification",
    "y",
    (0, 1),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["age", "a", "b", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@pytest.mark.parametrize("signature", [MATRIX, MIXED], ids=["matrix", "mixed"])
@given(rows=JSON)
def test_any_json_gives_a_table_or_an_input_error(signature, rows):
    try:
        table = InputParser(signature).parse(rows)
    except InputError as error:
        message = str(error)
    else:
        assert isinstance(table, np.ndarray if signature.is_matrix else dict)
        return
    assert len(message) < 500


FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)


@pytest.mark.slow
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 120),
            st.none() | FINITE,
            st.booleans(),
            st.sampled_from(["own", "rent"]),
            st.none() | st.text(max_size=5),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_good_rows_mean_the_same_as_lists_as_objects_and_as_a_frame(rows):
    parser = InputParser(MIXED)
    lists = parser.parse([list(r) for r in rows])
    objects = parser.parse([dict(zip(MIXED.names, r, strict=True)) for r in rows])
    frame = to_table(
        MIXED, pd.DataFrame([list(r) for r in rows], columns=MIXED.names).astype({"age": "int64", "score": float})
    )
    for name in MIXED.names:
        np.testing.assert_array_equal(lists[name], objects[name])
        if lists[name].dtype != object:
            np.testing.assert_array_equal(lists[name], frame[name])
        assert lists[name].dtype == frame[name].dtype
    assert len(to_frame(MIXED, lists)) == len(rows)


@pytest.mark.slow
@given(rows=st.lists(st.tuples(FINITE, st.floats(-5, 4.9), FINITE), min_size=1, max_size=8))
def test_a_matrix_is_what_was_sent_to_the_last_bit(rows):
    assert InputParser(MATRIX).parse([list(r) for r in rows]).tolist() == [list(r) for r in rows]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ([math.nan, 0, 0], "a"),
        ([0, 5, 0], "b"),
        ([0, -5.0001, 0], "b"),
        ([0, 0, math.inf], "c"),
        ([0, 0, "1.5"], "c"),
        ([0, True, 0], "b"),
        ([10**400, 0, 0], "a"),
        ([0, 0, [1]], "c"),
        ([0, 0, {}], "c"),
    ],
)
def test_the_culprit_is_named(row, column):
    with pytest.raises(InputError, match=f"Row 1, column '{column}'") as caught:
        InputParser(MATRIX).parse([[0, 0, 0], row])
    assert caught.value.details == {"row": 1, "column": column}


@pytest.mark.parametrize("value", [-5, 4.999999999999999, 4])
def test_limits_are_inclusive_or_exclusive_as_declared(value):
    assert InputParser(MATRIX).parse([[0, value, 0]])[0, 1] == value


@pytest.mark.parametrize("missing", [[0, 0, None], [0, 0, math.nan], {"a": 0, "b": 0}])
def test_optional_value_may_be_null_nan_or_absent(missing):
    assert math.isnan(InputParser(MATRIX).parse([missing])[0, 2])


def test_unseen_category_goes_to_the_model_where_the_signature_says_so():
    row = [41, 1.0, True, "own", "astronaut"]
    assert InputParser(MIXED).parse([row])["job"].tolist() == ["astronaut"]
    row[3] = "castle"
    with pytest.raises(InputError, match="column 'home': expected one of"):
        InputParser(MIXED).parse([row])


def test_whole_float_is_a_whole_number_and_a_fraction_is_not():
    row = [41.0, None, False, "own", None]
    assert InputParser(MIXED).parse([row])["age"].dtype == np.int64
    row[0] = 41.5
    with pytest.raises(InputError, match=r"expected a whole number, got 41\.5"):
        InputParser(MIXED).parse([row])


def test_long_values_are_cut_short_in_messages():
    with pytest.raises(InputError) as caught:
        InputParser(MATRIX).parse([["x" * 10_000, 0, 0]])
    assert len(str(caught.value)) < 120


def test_constant_column_and_boolean_and_dates():
    schema = pa.DataFrameSchema(
        {"k": pa.Column(int, pa.Check.eq(3)), "f": pa.Column(bool), "t": pa.Column("timedelta64[ns]")}
    )
    made = make_signature(schema, ["k", "f"], "y", "regression")
    assert made.inputs == (Input("k", "int", categories=(3,)), Input("f", "bool"))
    with pytest.raises(SpecError, match="Column 't' has the type timedelta64"):
        make_signature(schema, ["t"], "y")


DATED = pa.DataFrameSchema(
    {
        "sold": pa.Column(DateTime(to_datetime_kwargs={"format": "%d.%m.%Y"}), nullable=True),
        "at": pa.Column(DateTime(to_datetime_kwargs={"format": "ISO8601"})),
    },
    coerce=True,
)


def test_dates_of_a_request_become_those_of_the_table():
    signature = Signature.from_dict(make_signature(DATED, ["sold", "at"], "y", "regression").to_dict())
    assert signature.inputs == (
        Input("sold", "datetime", required=False, format="%d.%m.%Y"),
        Input("at", "datetime"),
    )
    texts = pd.DataFrame({"sold": ["31.05.2024", None], "at": ["2024-05-31", "2024-05-31 13:30"]})
    trained = to_table(signature, validate(texts, DATED))
    rows = [{"sold": "31.05.2024", "at": "2024-05-31"}, {"at": "2024-05-31T15:30:00+02:00"}]
    parsed = InputParser(signature).parse(rows)
    assert {k: str(v) for k, v in parsed.items()} == {k: str(v) for k, v in trained.items()}
    assert {v.dtype for v in [*parsed.values(), *trained.values()]} == {np.dtype("datetime64[us]")}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"at": "soon"}, r"Row 0, column 'at': expected a date or time such as 2024-05-31.*got 'soon'"),
        ({"at": "31.05.2024"}, "column 'at': expected a date"),
        ({"at": "2024-05-31", "sold": "2024-31-05"}, "column 'sold': .*or in the format %d.%m.%Y, got '2024-31-05'"),
        ({"at": 20240531}, "column 'at': expected a date or time.*got 20240531"),
        ({"at": None}, "column 'at': expected a date or time.*got null"),
    ],
)
def test_what_is_no_date_is_refused(row, message):
    signature = make_signature(DATED, ["sold", "at"], "y", "regression")
    with pytest.raises(InputError, match=message):
        InputParser(signature).parse([row])


def test_row_may_carry_the_columns_that_the_model_left_out():
    signature = Signature((Input("a"),), "regression", "y", ignored=("id", "y"))
    parser = InputParser(Signature.from_dict(signature.to_dict()))
    assert parser.parse([{"a": 1, "id": "x", "y": 3}, {"a": 2}]).tolist() == [[1.0], [2.0]]
    assert parser.parse({"a": 1, "id": None}).tolist() == [[1.0]]
    with pytest.raises(InputError, match="unknown column 'b'"):
        parser.parse([{"a": 1, "b": 2}])


def test_blanks_around_the_names_of_a_row_are_no_part_of_them():
    parser = InputParser(MATRIX)
    rows = [{"a": 1, " b ": 2, "c": 3}, {"a": 4, "b": 4, "c ": 6}]
    assert parser.parse(rows).tolist() == [[1, 2, 3], [4, 4, 6]]
    assert rows[0] == {"a": 1, " b ": 2, "c": 3}, "what the client sent stays as it is"
    both, other = {"a": 1, " b": 2, "b": 3, "c": 3}, {"a": 1, "b d": 2}
    for row, message in ((both, "unknown column ' b'"), (other, "unknown column 'b d'")):
        with pytest.raises(InputError, match=message):
            parser.parse([row])
    with pytest.raises(InputError, match="Row 1 is 5"):
        parser.parse([{" a": 1, "b": 2}, 5])


def test_columns_without_a_name_may_come_as_clients_name_them():
    parser = InputParser(replace(MATRIX, ignored=("Unnamed: 3", "Unnamed: 4")))
    for unnamed in ({"Unnamed: 3": "x"}, {"": "x"}, {" ": "x", "  ": None}):
        assert parser.parse([{"a": 1, "b": 2, "c": 3} | unnamed]).tolist() == [[1, 2, 3]]
    with pytest.raises(InputError, match="unknown column ''"):
        InputParser(MATRIX).parse([{"a": 1, "b": 2, "c": 3, "": "x"}])


def test_signature_survives_json():
    import json

    for signature in (MATRIX, MIXED):
        assert Signature.from_dict(json.loads(json.dumps(signature.to_dict()))) == signature


def test_missing_text_of_a_request_is_to_the_estimator_what_it_was_in_training():
    inputs = (Input("home", "string", required=False), Input("n", "bool", required=False))
    signature = Signature(inputs, "regression", "y")
    table = pd.DataFrame({"home": ["own", None], "n": pd.array([True, None], dtype="boolean")})
    trained = to_frame(signature, to_table(signature, table))
    served = to_frame(signature, InputParser(signature).parse([{"home": "own", "n": True}, {}]))
    pd.testing.assert_frame_equal(trained, served)
    assert trained["home"].dtype == "str"
    assert trained["home"].isna().tolist() == [False, True]


KINDS_OF_ALL = Signature(
    (
        Input("f", minimum=-5, below=5),
        Input("o", required=False),
        Input("n", "int", minimum=0, maximum=120, categories=(1, 2, 41)),
        Input("m", "int", required=False),
        Input("b", "bool", required=False),
        Input("s", "string", categories=("own", "rent")),
        Input("u", "string", required=False),
        Input("t", "datetime"),
        Input("d", "datetime", required=False, format="%d.%m.%Y"),
    ),
    "regression",
    "y",
    ignored=("id",),
)
NUMBER = st.floats(-6, 6) | st.integers(-6, 130) | st.sampled_from([math.nan, math.inf, -(2**63), 2**63 - 1])
GOOD = {
    "f": st.floats(-5, 4.9),
    "o": st.none() | FINITE,
    "n": st.sampled_from([1, 2, 41]),
    "m": st.none() | st.integers(-3, 3),
    "b": st.none() | st.booleans(),
    "s": st.sampled_from(["own", "rent"]),
    "u": st.none() | st.text(max_size=4),
    "t": st.datetimes(timezones=st.just(UTC)).map(lambda t: t.isoformat()),
    "d": st.sampled_from([None, "31.05.2024", "2024-05-31T13:30:00+02:00"]),
    "id": st.none() | st.integers(0, 5),
}
ODD = st.sampled_from([NUMBER, NUMBER, st.none() | st.text(max_size=3), st.none() | st.booleans(), st.none()])


@st.composite
def tables(draw):
    n, columns = draw(st.integers(1, 3)), dict(GOOD)
    for name in draw(st.sets(st.sampled_from([*GOOD]), max_size=4)):
        del columns[name]
    if draw(st.booleans()):
        columns[draw(st.sampled_from([*GOOD, "x"]))] = draw(ODD)
    return {name: draw(st.lists(values, min_size=n, max_size=n)) for name, values in columns.items()}


def result_of(parse, rows):
    """What a parser makes of rows: a table, or the place that it complains about."""
    try:
        return {name: (str(column.dtype), column.tolist()) for name, column in parse(rows).items()}
    except InputError as e:
        return e.details["column"], e.details.get("row") if str(e).startswith("Row") and "missing" not in str(e) else 0


@pytest.mark.slow
@given(columns=tables(), chunks=st.booleans())
def test_arrow_and_json_of_the_same_rows_are_the_same_table_or_the_same_complaint(columns, chunks):
    try:
        table = pyarrow.table({name: pyarrow.array(values) for name, values in columns.items()})
    except (pyarrow.ArrowInvalid, OverflowError):  # a column of Arrow has one type
        reject()
    if chunks:
        table = pyarrow.concat_tables([table.slice(0, 1), table.slice(1)])
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    parser = InputParser(KINDS_OF_ALL)
    assert repr(result_of(parser.parse, table)) == repr(result_of(parser.parse, rows))
    if isinstance(parsed := result_of(parser.parse, rows), dict):
        again = rows_of(KINDS_OF_ALL, parser.parse(table))
        assert repr(result_of(parser.parse, again)) == repr(parsed)


WORDS = pyarrow.array(["own", None, "rent"])
MOMENTS = pyarrow.array([0, None, 86_400])


@pytest.mark.parametrize(
    ("name", "array", "expected"),
    [
        ("u", WORDS.cast("large_string"), ["own", None, "rent"]),
        ("u", WORDS.cast(pyarrow.string_view()), ["own", None, "rent"]),
        ("u", WORDS.dictionary_encode(), ["own", None, "rent"]),
        ("u", pyarrow.DictionaryArray.from_arrays([0, 1, None], [None, "rent", "x"]), [None, "rent", None]),
        ("u", pyarrow.nulls(3, pyarrow.list_(pyarrow.int8())), [None] * 3),
        ("o", pyarrow.array([1, None, 3], "int8"), [1, None, 3]),
        ("o", pyarrow.array([1.5, None, 3], "float16"), [1.5, None, 3]),
        ("o", pyarrow.array([Decimal("1.5"), None, Decimal(3)], pyarrow.decimal256(40, 2)), [1.5, None, 3]),
        ("o", pyarrow.array([1.5, None, 1.5]).dictionary_encode(), [1.5, None, 1.5]),
        ("m", pyarrow.array([2**52, None, 3], "uint64"), [2**52, None, 3]),
        ("d", MOMENTS.cast(pyarrow.timestamp("s")), ["1970-01-01", None, "1970-01-02"]),
        ("d", MOMENTS.cast(pyarrow.timestamp("ns", "Europe/Berlin")), ["1970-01-01", None, "1970-01-01"]),
        ("d", MOMENTS.cast(pyarrow.timestamp("s")).cast("date32"), ["1970-01-01", None, "1970-01-02"]),
        ("d", MOMENTS.cast(pyarrow.timestamp("s")).cast("date64"), ["1970-01-01", None, "1970-01-02"]),
        ("d", pyarrow.array(["31.05.2024", None, "x"]).slice(0, 2).dictionary_encode(), ["2024-05-31", None]),
        ("m", pyarrow.array([1, 2**63], "uint64"), "Row 1, column 'm': expected a whole number below 2"),
        ("u", pyarrow.array([None, b"own"]), "Row 1, column 'u': expected a string, got a value of the type binary"),
        ("b", pyarrow.array([None, 1]), "Row 1, column 'b': expected true or false, got a value of the type int64"),
        ("o", pyarrow.array([1.5, math.inf]), "Row 1, column 'o': expected a finite number, got Infinity"),
        ("m", pyarrow.array([Decimal("1.5")]), "Row 0, column 'm': expected a whole number, got 1.5"),
        ("o", pyarrow.array([[1.0]]), "Row 0, column 'o': expected a number, got a value of the type list"),
        ("s", pyarrow.array([None, 1]), "Row 0, column 's': expected a string, got null"),
        ("d", pyarrow.array([2**62], pyarrow.timestamp("s")), "Row 0, column 'd': expected a date or time .*, got "),
        ("d", pyarrow.array([5], pyarrow.time32("s")), "Row 0, column 'd': expected a date or time .* type time32"),
    ],
)
def test_types_of_arrow_are_taken_or_named(name, array, expected):
    good = {"f": 1.0, "n": 41, "b": True, "s": "own", "t": "2024-05-31"}
    table = pyarrow.table({key: [value] * len(array) for key, value in good.items()} | {name: array})
    parser = InputParser(KINDS_OF_ALL)
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            parser.parse(table)
        return
    column = parser.parse(table)[name]
    got = rows_of(KINDS_OF_ALL, parser.parse(table))
    assert column.dtype == parser.parse([good])[name].dtype
    got = [row[parser.names.index(name)] for row in got]
    assert [value[:10] if name == "d" and value else value for value in got] == expected


def test_column_of_arrow_that_is_there_twice_is_refused():
    table = pyarrow.table([[1.0], [2.0]], names=["a", "a"])
    with pytest.raises(InputError, match="Column 'a' is there 2 times"):
        InputParser(MATRIX).parse(table)


@pytest.mark.parametrize("rows", [np.array([[1, 2, 3]], "int8"), np.array([[1, 2, np.nan]], "float16")])
def test_array_of_numbers_means_what_its_rows_mean(rows):
    assert repr(InputParser(MATRIX).parse(rows)) == repr(InputParser(MATRIX).parse(rows.tolist()))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[1, 6, 3.0]]), "Row 0, column 'b': expected a number of at least -5 and less than 5, got 6.0"),
        (np.array([[True, False, True]]), "Row 0, column 'a': expected a number, got true"),
        (np.zeros((2, 2)), "Row 0 has 2 values; the model takes 3"),
        (np.zeros((0, 3)), "no rows"),
        (np.zeros((1, 3, 1)), "Row 0, column 'a': expected a number, got a list"),
    ],
)
def test_array_that_does_not_fit_is_refused_as_its_rows_are(rows, message):
    with pytest.raises(InputError, match=message):
        InputParser(MATRIX).parse(rows)
