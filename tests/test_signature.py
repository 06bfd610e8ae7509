"""Requests to columns: whatever comes, a table or an InputError."""

import math

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.errors import InputError, SpecError
from mlops_nb.signature import Input, RowParser, Signature, make_signature, to_frame, to_table

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


@pytest.mark.parametrize("signature", [MATRIX, MIXED], ids=["matrix", "mixed"])
@given(rows=JSON)
def test_any_json_gives_a_table_or_an_input_error(signature, rows):
    try:
        table = RowParser(signature).parse(rows)
    except InputError as e:
        assert len(str(e)) < 500
        return
    assert isinstance(table, np.ndarray if signature.is_matrix else dict)


FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)


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
    parser = RowParser(MIXED)
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


@given(rows=st.lists(st.tuples(FINITE, st.floats(-5, 4.9), FINITE), min_size=1, max_size=8))
def test_a_matrix_is_what_was_sent_to_the_last_bit(rows):
    assert RowParser(MATRIX).parse([list(r) for r in rows]).tolist() == [list(r) for r in rows]


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
        RowParser(MATRIX).parse([[0, 0, 0], row])
    assert caught.value.details == {"row": 1, "column": column}


@pytest.mark.parametrize("value", [-5, 4.999999999999999, 4])
def test_limits_are_inclusive_or_exclusive_as_declared(value):
    assert RowParser(MATRIX).parse([[0, value, 0]])[0, 1] == value


@pytest.mark.parametrize("missing", [[0, 0, None], [0, 0, math.nan], {"a": 0, "b": 0}])
def test_optional_value_may_be_null_nan_or_absent(missing):
    assert math.isnan(RowParser(MATRIX).parse([missing])[0, 2])


def test_unseen_category_goes_to_the_model_where_the_signature_says_so():
    row = [41, 1.0, True, "own", "astronaut"]
    assert RowParser(MIXED).parse([row])["job"].tolist() == ["astronaut"]
    row[3] = "castle"
    with pytest.raises(InputError, match="column 'home': expected one of"):
        RowParser(MIXED).parse([row])


def test_whole_float_is_a_whole_number_and_a_fraction_is_not():
    row = [41.0, None, False, "own", None]
    assert RowParser(MIXED).parse([row])["age"].dtype == np.int64
    row[0] = 41.5
    with pytest.raises(InputError, match=r"expected a whole number, got 41\.5"):
        RowParser(MIXED).parse([row])


def test_long_values_are_cut_short_in_messages():
    with pytest.raises(InputError) as caught:
        RowParser(MATRIX).parse([["x" * 10_000, 0, 0]])
    assert len(str(caught.value)) < 120


def test_constant_column_and_boolean_and_dates():
    schema = pa.DataFrameSchema(
        {"k": pa.Column(int, pa.Check.eq(3)), "f": pa.Column(bool), "t": pa.Column("datetime64[ns]")}
    )
    made = make_signature(schema, ["k", "f"], "y", "regression")
    assert made.inputs == (Input("k", "int", categories=(3,)), Input("f", "bool"))
    with pytest.raises(SpecError, match="Column 't' has the type datetime64"):
        make_signature(schema, ["t"], "y")


def test_signature_survives_json():
    import json

    for signature in (MATRIX, MIXED):
        assert Signature.from_dict(json.loads(json.dumps(signature.to_dict()))) == signature
