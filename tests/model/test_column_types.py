"""A column of a type that no request could carry is one sentence before training, whatever holds it."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest

from mlops_nb.data.tables import snapshot, validate
from mlops_nb.errors import DataError
from mlops_nb.model.columns import input_frame
from mlops_nb.spec import ModelSpec

ROWS = 8
NO_TEXTS = {
    "whole categories": lambda: pd.Categorical([1, 2] * 4),
    "boolean categories": lambda: pd.Categorical([True, False] * 4),
    "times as categories": lambda: pd.Categorical(pd.to_datetime(["2020-01-01", "2020-01-02"] * 4)),
    "whole numbers": lambda: pd.Series([1, 2] * 4, dtype=object),
    "booleans": lambda: pd.Series([True, None] * 4, dtype=object),
    "decimals": lambda: [Decimal(1), Decimal(2)] * 4,
    "dates": lambda: [datetime.date(2020, 1, 1)] * ROWS,
    "times of day": lambda: [datetime.time(1)] * ROWS,
}
UNSTORABLE = {
    "texts and numbers": lambda: [1, "a"] * 4,
    "complex numbers": lambda: np.arange(ROWS) + 1j,
    "huge numbers": lambda: pd.Series([10**30] * ROWS, dtype=object),
    "ranges": lambda: pd.cut(np.arange(ROWS), 3),
    "sparse numbers": lambda: pd.arrays.SparseArray(np.arange(ROWS) % 2 * 1.0),
    "long floats": lambda: np.arange(ROWS, dtype=np.longdouble),
}


def prepared(values, dtype, folder) -> pd.DataFrame:
    """Read, check and store a column as the task `ingest` does, and make the inputs of an estimator of it."""
    table = pd.DataFrame({"a": np.arange(ROWS) * 1.0, "c": values, "y": [0, 1] * 4})
    schema = pa.DataFrameSchema({"a": pa.Column(float), "c": pa.Column(dtype, nullable=True), "y": pa.Column(int)})
    spec = ModelSpec("toy", lambda: table, "y", schema, dict)
    rows = validate(table, schema)
    snapshot(rows, folder)
    return input_frame(spec, rows)


@pytest.mark.parametrize("kind", NO_TEXTS)
def test_column_of_texts_with_other_values_is_refused_before_training(kind, tmp_path):
    values = NO_TEXTS[kind]()
    dtype = "category" if isinstance(values, pd.Categorical) else object
    with pytest.raises(DataError, match=r"Column 'c' has values of the type .* make texts of them in load\(\)"):
        prepared(values, dtype, tmp_path)


@pytest.mark.parametrize("kind", UNSTORABLE)
def test_column_that_a_snapshot_cannot_hold_is_named(kind, tmp_path):
    with pytest.raises(DataError, match=r"Column 'c' has values that a snapshot of the data cannot hold: of the type"):
        prepared(UNSTORABLE[kind](), None, tmp_path)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (lambda: pd.Series(["a", None] * 4, dtype=object), object),
        (lambda: pd.Categorical(["a", None] * 4), "category"),
        (lambda: pd.array(["a", None] * 4, "string[pyarrow]"), "string[pyarrow]"),
        (lambda: pd.Series([np.str_("a"), np.nan] * 4, dtype=object), object),
        (lambda: [None] * ROWS, object),
    ],
)
def test_texts_and_missing_values_are_taken(values, dtype, tmp_path):
    assert len(prepared(values(), dtype, tmp_path)) == ROWS
